"""The runner on a TensorRT engine: torch's own GPU memory in and out, nothing copied between steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit.core.errors import DtkError, MissingToolError
from toolkit.core.files import file_sha256, read_json
from toolkit.runners.base import RunnerKind, Times
from toolkit.runners.tensorrt_api import TensorRT, elsewhere, gpu_facts, load_tensorrt, refitted
from toolkit.runners.tensorrt_binding import Binding, Feed


class TensorRTRunner:
    """A built denoiser (``.plan`` with its ``.json`` next to it) on the GPU it was built for.

    ``weights`` is the ONNX file of an engine that was built without its weights. Raises DtkError for a plan that is
    damaged, or that another TensorRT or another GPU made.
    """

    name = "tensorrt"

    def __init__(self, path: Path, *, device: str = "cuda", weights: Path | None = None) -> None:
        self.device = device
        facts = check_plan(path, api := load_tensorrt(), device)
        with torch.cuda.device(device):
            self._open(api, path, facts, weights)
            self._stream = torch.cuda.Stream(device)  # on the default stream TensorRT adds synchronisation

    def _open(self, api: TensorRT, path: Path, facts: Mapping[str, Any], weights: Path | None) -> None:
        trt = api.module
        self._api, self._path, self._batch, self._contexts = api, path, str(facts["batch"]), 0
        logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._runtime.engine_host_code_allowed = bool(facts.get("version_compatible"))  # such a plan brings its runtime
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is not None and facts.get("weights") == "stripped":
            refitted(api, self._engine, logger, weights or _graph_of(path))
        if self._engine is None:
            raise self._refusal()
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        (self._output,) = (name for name, mode in modes.items() if mode == trt.TensorIOMode.OUTPUT)
        self._input = next(name for name in names if name != self._output)
        self._binding = self._new_binding()

    def _refusal(self) -> DtkError:
        """For a missing engine or context: out of memory, or no kernel for this GPU. TensorRT says so to its log."""
        package = f"{self._api.package} {self._api.version}"
        return DtkError(f"{package} refuses {self._path} on this GPU.", do="dtk export RUN --trt")

    def _new_binding(self) -> Binding:
        """An execution context with memory of its own."""
        options = []
        if self._api.rtx:  # by itself it compiles kernels in the background, and computes with others meanwhile
            runtime_config, trt = self._engine.create_runtime_config(), self._api.module
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            options = [runtime_config]
        context = self._engine.create_execution_context(*options)
        if context is None:
            raise self._refusal()
        self._contexts += 1
        return Binding(context, self._output, self._ranges(), self._batch, self.device)

    def _ranges(self) -> list[tuple[int, int]]:
        """The smallest and largest batch of each optimisation profile, if there are several."""
        count = self._engine.num_optimization_profiles
        shapes = [self._engine.get_tensor_profile_shape(self._input, index) for index in range(count)]
        return [(int(least[0]), int(most[0])) for least, _, most in shapes] if count > 1 else []

    @property
    def device_bytes(self) -> int:
        """GPU memory that TensorRT holds past torch: the scratch space of each context, and the weights."""
        return int(self._contexts * self._engine.device_memory_size_v2) + self._path.stat().st_size

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        return self.run({"sample": sample, "timestep": timestep, **conditioning})

    def run(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The output, float32, of any engine of one output: a denoiser's, a decoder's, a text encoder's."""
        feed = self._feed(inputs)
        with torch.cuda.device(self.device):
            caller = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(caller)
            output = self._binding.enqueue(feed, self._stream)
            for tensor in (*feed.values(), output):
                tensor.record_stream(self._stream)
            caller.wait_stream(self._stream)
        return output

    def _feed(self, inputs: Mapping[str, torch.Tensor]) -> Feed:
        return {name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()}

    def attach_profiler(self) -> Any:
        """A profiler whose ``times`` grow by (layer, ms) with every call from now on; a call then waits for its end."""
        trt = self._api.module

        class Collecting(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)
                self.times: list[tuple[str, float]] = []

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                self.times.append((layer_name, ms))

        self._binding.context.profiler = Collecting()
        return self._binding.context.profiler

    def close(self) -> None:
        del self._binding, self._engine, self._runtime


def check_plan(path: Path, api: TensorRT, device: str = "cuda") -> dict[str, Any]:
    """The facts of a plan that can be loaded on ``device``; raises DtkError, saying why, for one that cannot."""
    description: dict[str, Any] = read_json(path.with_suffix(".json"))
    if file_sha256(path) != description["sha256"]:
        raise DtkError(f"{path} is damaged or was changed.", do="dtk export RUN --trt builds it again")
    built: dict[str, Any] = description["facts"]
    differ = elsewhere(built, {"builder": api.package, "version": api.version, **gpu_facts(device)})
    if differ:
        raise DtkError(
            f"{path} was built elsewhere.", found="; ".join(differ), do="dtk export RUN --trt builds it for here"
        )
    return built


def _graph_of(path: Path) -> Path:
    """The ONNX file of a run that the engine RUN/tensorrt/NAME[-bN].plan was built from."""
    return path.parent.parent / "export" / "onnx" / f"{path.stem.partition('-b')[0]}.onnx"


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
    node_times=lambda source, device, **options: TensorRTNodes(source, device=device),
)
