"""The runner on a TensorRT engine: torch's own GPU memory in and out, nothing copied between steps.

Shapes and addresses are bound once and again only if they change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from toolkit.core.errors import DtkError, MissingToolError
from toolkit.core.files import file_sha256, read_json
from toolkit.runners.base import RunnerKind, Times
from toolkit.runners.tensorrt_api import TensorRT, gpu_facts, load_tensorrt

OUTPUT = "prediction"


class TensorRTRunner:
    """A built denoiser (``.plan`` with its ``.json`` next to it) on the GPU it was built for.

    Raises DtkError for a plan that is damaged, or that another TensorRT or another GPU made.
    """

    name = "tensorrt"

    def __init__(self, path: Path, *, device: str = "cuda") -> None:
        self.device = device
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._batch = check_plan(path, api := load_tensorrt())
        self._trt = trt = api.module
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise DtkError(f"{api.package} {api.version} refuses {path} on this GPU.", do="dtk export RUN --trt")
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream(device)  # on the default stream TensorRT adds synchronisation

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        feed = {"sample": sample, "timestep": timestep, **conditioning}
        feed = {name: tensor.to(self.device).contiguous() for name, tensor in feed.items()}
        for name, tensor in feed.items():
            self._bind(name, tensor)
        prediction = torch.empty(tuple(self._context.get_tensor_shape(OUTPUT)), device=self.device)
        self._bind_address(OUTPUT, prediction)
        self._enqueue([*feed.values(), prediction])
        return prediction

    def _bind(self, name: str, tensor: torch.Tensor) -> None:
        shape = tuple(tensor.shape)
        if self._shapes.get(name) != shape:
            if not self._context.set_input_shape(name, shape):
                raise DtkError(
                    f"The engine does not take a batch of {len(tensor)}.", expected=f"{self._batch} (min:opt:max)"
                )
            self._shapes[name] = shape
        self._bind_address(name, tensor)

    def _bind_address(self, name: str, tensor: torch.Tensor) -> None:
        if self._addresses.get(name) != tensor.data_ptr():
            self._context.set_tensor_address(name, tensor.data_ptr())
            self._addresses[name] = tensor.data_ptr()

    def _enqueue(self, tensors: list[torch.Tensor]) -> None:
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise DtkError("The engine could not be enqueued.")
        for tensor in tensors:
            tensor.record_stream(self._stream)
        caller.wait_stream(self._stream)

    def attach_profiler(self) -> Any:
        """A profiler whose ``times`` grow by (layer, ms) with every call from now on; a call then waits for its end."""
        trt = self._trt

        class Collecting(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)
                self.times: list[tuple[str, float]] = []

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                self.times.append((layer_name, ms))

        self._context.profiler = Collecting()
        return self._context.profiler

    def close(self) -> None:
        del self._context, self._engine, self._runtime


def check_plan(path: Path, api: TensorRT) -> str:
    """The batch range of a plan that can be loaded here; raises DtkError, saying why, for one that cannot."""
    description: dict[str, Any] = read_json(path.with_suffix(".json"))
    if file_sha256(path) != description["sha256"]:
        raise DtkError(f"{path} is damaged or was changed.", do="dtk export RUN --trt builds it again")
    built, here = description["facts"], {"builder": api.package, "version": api.version, **gpu_facts()}
    if api.rtx:  # its plans hold for every GPU they were built for; the runtime judges
        here = {name: here[name] for name in ("builder", "version")}
    differ = [f"{name} {built[name]} (here {value})" for name, value in here.items() if built[name] != value]
    if differ:
        raise DtkError(
            f"{path} was built elsewhere.", found="; ".join(differ), do="dtk export RUN --trt builds it for here"
        )
    return str(built["batch"])


class TensorRTNodes:
    """A plan in TensorRT, on the GPU it was built for."""

    def __init__(self, path: Path, *, device: str) -> None:
        self._runner = TensorRTRunner(path, device=device)
        self._profiler = self._runner.attach_profiler()
        self._calls: list[Times] = []

    def __call__(self, **inputs: torch.Tensor) -> None:
        self._profiler.times = []
        self._runner(**inputs)
        torch.cuda.synchronize(self._runner.device)
        self._calls.append(self._profiler.times)

    def close(self) -> list[Times]:
        self._runner.close()
        return self._calls


def unavailable(device: str) -> str | None:
    """Why TensorRT cannot compute on ``device``, None if it can."""
    if not device.startswith("cuda"):
        return "TensorRT computes only on an NVIDIA GPU: --device cuda"
    try:
        load_tensorrt()
    except MissingToolError as error:
        return str(error)
    return None


RUNNER = RunnerKind(
    "tensorrt",
    "engine",
    TensorRTRunner,
    unavailable,
    node_times=lambda source, device: TensorRTNodes(source, device=device),
)
