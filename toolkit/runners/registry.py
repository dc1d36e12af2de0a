"""The runners by name, and why one is not available on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.errors import DtkError, MissingToolError, unknown
from toolkit.models import ModelFolder
from toolkit.runners.base import Runner

if TYPE_CHECKING:
    from toolkit.runners.node_times import NodeTimes

Reads = Literal["model", "onnx", "engine"]


@dataclass(frozen=True)
class RunnerKind:
    """How a runner is opened: what it reads (a diffusers folder, an ONNX file or a plan) and what it needs."""

    reads: Reads
    open: Callable[..., Runner]
    unavailable: Callable[[str], str | None]


def known_runners() -> list[str]:
    """The names of all runners, whether they are available here or not."""
    return list(_RUNNERS)


def runner_reads(name: str) -> Reads:
    """What ``open_runner`` wants as source: "model" a ModelFolder, "onnx" or "engine" the path of a .onnx or .plan."""
    return _kind(name).reads


def unavailable(name: str, device: str = "cpu") -> str | None:
    """Why a runner cannot run on ``device`` of this machine, in words; None if it can."""
    return _kind(name).unavailable(device) or _no_device(device)


def check_available(name: str, device: str = "cpu") -> None:
    """Raise UsageError for an unknown name, MissingToolError where the runner is not available on this machine."""
    if reason := unavailable(name, device):
        raise MissingToolError(f"The runner {name} is not available on {device}.", found=reason)


def open_runner(name: str, source: ModelFolder | Path, *, device: str = "cpu", **options: Any) -> Runner:
    """Open a runner of ``source``; torch runners take ``dtype`` (fp32, fp16, bf16), a file has its own.

    Raises UsageError for an unknown name, MissingToolError where the runner is not available on this machine.
    """
    kind = _kind(name)
    check_available(name, device)
    if isinstance(source, ModelFolder) != (kind.reads == "model"):
        raise DtkError(f"The runner {name} cannot open {source}.", expected=f"its {kind.reads}")
    return kind.open(source, device=device, **options)


def open_node_times(name: str, source: Path, device: str) -> NodeTimes | None:
    """The runner of an exported denoiser with its own profiler on; None where it has none that tells nodes' times."""
    from toolkit.runners.node_times import OnnxRuntimeNodes, TensorRTNodes

    check_available(name, device)
    if name == "onnxruntime" and device == "cpu":
        return OnnxRuntimeNodes(source)
    return TensorRTNodes(source, device=device) if name == "tensorrt" else None


def _kind(name: str) -> RunnerKind:
    if name not in _RUNNERS:
        raise unknown("runner", name, known_runners())
    return _RUNNERS[name]


def _no_device(device: str) -> str | None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return None


def _compile_reason(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler, and there is none on PATH"
    if device.startswith("cuda") and find_spec("triton") is None:
        return "torch.compile needs the package triton on a GPU"
    return None


def _onnxruntime_reason(device: str) -> str | None:
    if find_spec("onnxruntime") is None:
        return 'the package onnxruntime is not installed: pip install ".[cpu]" or ".[gpu]"'
    from toolkit.runners.onnxruntime import provider_reason

    return provider_reason(device)


def _open_torch(source: ModelFolder, **options: Any) -> Runner:
    from toolkit.runners.torch import TorchRunner

    return TorchRunner(source, **options)


def _open_compiled(source: ModelFolder, **options: Any) -> Runner:
    from toolkit.runners.torch import CompiledRunner

    return CompiledRunner(source, **options)


def _cuda_graph_reason(device: str) -> str | None:
    return None if device.startswith("cuda") else "CUDA graphs are of an NVIDIA GPU: --device cuda"


def _open_cuda_graph(source: ModelFolder, **options: Any) -> Runner:
    from toolkit.runners.cuda_graph import CudaGraphRunner

    return CudaGraphRunner(source, **options)


def _open_onnxruntime(source: Path, **options: Any) -> Runner:
    from toolkit.runners.onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(source, **options)


def _tensorrt_reason(device: str) -> str | None:
    if not device.startswith("cuda"):
        return "TensorRT computes on an NVIDIA GPU alone: --device cuda"
    from toolkit.runners.tensorrt_api import load_tensorrt

    try:
        load_tensorrt()
    except MissingToolError as error:
        return str(error)
    return None


def _open_tensorrt(source: Path, **options: Any) -> Runner:
    from toolkit.runners.tensorrt import TensorRTRunner

    return TensorRTRunner(source, **options)


_RUNNERS = {
    "torch": RunnerKind("model", _open_torch, lambda device: None),
    "compile": RunnerKind("model", _open_compiled, _compile_reason),
    "cudagraph": RunnerKind("model", _open_cuda_graph, _cuda_graph_reason),
    "tensorrt": RunnerKind("engine", _open_tensorrt, _tensorrt_reason),
    "onnxruntime": RunnerKind("onnx", _open_onnxruntime, _onnxruntime_reason),
}
