"""The runner on ONNX Runtime: the provider that was requested, or an error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # before a CUDA session: it brings the CUDA libraries that onnxruntime-gpu links to

from toolkit.core.errors import DtkError, MissingToolError, UsageError, first_line
from toolkit.runners.base import RunnerKind, Times

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeRunner:
    """An exported denoiser (``.onnx``) in ONNX Runtime, with as many threads as torch has.

    Raises MissingToolError if the installed ONNX Runtime lacks the device's provider, DtkError if the session
    did not get it or the file is no ONNX model. ``tf32``: round float32 products, on a GPU. With ``profile``, the
    beginning of a file's name, every node's time is noted until ``end_profiling``.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, device: str = "cpu", tf32: bool = False, profile: Path | None = None) -> None:
        self.device = device
        self._session = _session(path, device, profile, tf32)
        (self._output,) = (node.name for node in self._session.get_outputs())
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        feed = {"sample": sample, "timestep": timestep, **conditioning}
        if set(feed) != set(self._inputs):
            raise DtkError(
                "The exported denoiser takes other inputs.", found=", ".join(feed), expected=", ".join(self._inputs)
            )
        return self._bound(feed) if self.device.startswith("cuda") else self._copied(feed)

    def _copied(self, feed: dict[str, torch.Tensor]) -> torch.Tensor:
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in feed.items()}
        (prediction,) = self._session.run([self._output], arrays)
        return torch.from_numpy(prediction)

    def _bound(self, feed: dict[str, torch.Tensor]) -> torch.Tensor:
        """Read and write the tensors where they lie on the GPU."""
        import onnxruntime

        binding = self._session.io_binding()
        tensors = {name: tensor.to(self.device).contiguous() for name, tensor in feed.items()}
        for name, tensor in tensors.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.from_dlpack(tensor))
        binding.bind_output(self._output, "cuda", torch.device(self.device).index or 0)
        torch.cuda.current_stream(self.device).synchronize()  # the session runs on a stream of its own
        self._session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0])

    def end_profiling(self) -> Path:
        """The trace of all calls, as JSON."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        del self._session


class OnnxRuntimeNodes:
    """An exported denoiser (.onnx) in ONNX Runtime on the CPU. On a GPU its profiler would show only launches."""

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dtk-nodes-")
        self._runner = OnnxRuntimeRunner(path, device="cpu", profile=Path(self._folder.name) / "nodes")

    def __call__(self, **inputs: torch.Tensor) -> None:
        self._runner(**inputs)

    def close(self) -> list[Times]:
        with self._folder:
            return calls_of(json.loads(self._runner.end_profiling().read_text()))


def calls_of(events: list[dict[str, Any]]) -> list[Times]:
    """The nodes' times of each call in ONNX Runtime's trace: microseconds, a ``model_run`` around each call."""
    suffix = "_kernel_time"
    nodes = sorted((e for e in events if e["cat"] == "Node" and e["name"].endswith(suffix)), key=lambda e: e["ts"])
    times = []
    for run in sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"]):
        inside = [e for e in nodes if run["ts"] <= e["ts"] <= run["ts"] + run["dur"]]
        times.append([(e["name"].removesuffix(suffix), e["dur"] / 1e3) for e in inside])
    return times


class Session:
    """Any exported graph on the CPU: tensors in and out by name."""

    def __init__(self, path: Path) -> None:
        self._session = _session(path, "cpu")

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the graph; the graph's own types and shapes."""
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, self._session.run(names, arrays)), strict=True))

    def close(self) -> None:
        del self._session


def unavailable(device: str) -> str | None:
    """Why ONNX Runtime cannot compute on ``device``, None if it can."""
    if find_spec("onnxruntime") is None:
        return 'the package onnxruntime is not installed: pip install ".[cpu]" or ".[gpu]"'
    import onnxruntime

    wanted, available = PROVIDERS[device.split(":")[0]], onnxruntime.get_available_providers()
    return None if wanted in available else f"onnxruntime has no {wanted}, only {', '.join(available)}"


def _session(path: Path, device: str, profile: Path | None = None, tf32: bool = False) -> onnxruntime.InferenceSession:
    if tf32 and device == "cpu":
        raise UsageError("There is no tf32 on cpu.", expected="fp32, or --device cuda")
    if reason := unavailable(device):
        raise MissingToolError(
            f"ONNX Runtime cannot run on {device}.",
            found=reason,
            do='pip install ".[gpu]" (onnxruntime-gpu in place of onnxruntime; never both)',
        )
    import onnxruntime

    provider = PROVIDERS[device.split(":")[0]]
    place = {} if device == "cpu" else {"device_id": torch.device(device).index or 0, "use_tf32": int(tf32)}
    try:
        session = onnxruntime.InferenceSession(path, _options(profile), providers=[(provider, place)])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise DtkError(f"ONNX Runtime cannot load {path}.", found=first_line(error)) from error
    session.disable_fallback()
    active = session.get_providers()[0]
    if active != provider:
        raise DtkError(
            f"ONNX Runtime fell back on {active}.", expected=provider, do="`dtk doctor` tells which libraries"
        )
    return session


def _options(profile: Path | None) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin on after a call slow the other session of an interleaved measurement, at batch 1 threefold.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


RUNNER = RunnerKind(
    "onnxruntime",
    "onnx",
    OnnxRuntimeRunner,
    unavailable,
    node_times=lambda source, device, **options: OnnxRuntimeNodes(source) if device == "cpu" else None,
)
