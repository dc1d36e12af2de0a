"""What a runner is (something that computes the denoiser), and the runners by name: one file each, its ``RUNNER``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from toolkit import runners
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.core.registry import entries, entry
from toolkit.models.folder import ModelFolder

if TYPE_CHECKING:
    import torch

Reads = Literal["model", "onnx", "engine"]


class Runner(Protocol):
    """Computes the denoiser's prediction; torch, ONNX Runtime and TensorRT stand behind the same call.

    Tensors live on ``device``; the first call for a new batch size may be slow (compilation, allocation).
    """

    name: str
    device: str

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """Predict from ``sample`` (B, C, H, W) float32 at ``timestep`` (B,) int64; returns (B, C, H, W) float32.

        ``conditioning`` holds what the class takes: ``class_labels`` (B,) or ``encoder_hidden_states`` (B, S, D).
        """
        ...

    def close(self) -> None:
        """Release sessions, engines and device memory; a closed runner is not called again."""
        ...


Times = list[tuple[str, float]]
"""(name, ms) of every node of one call, in the order they ran; the runtime may have fused several under one name."""


class NodeTimes(Protocol):
    """A runner that notes its nodes' times; it is slower than one that does not."""

    def __call__(self, **inputs: torch.Tensor) -> None: ...
    def close(self) -> list[Times]:
        """The times of each call so far; it is not called again."""
        ...


@dataclass(frozen=True)
class RunnerKind:
    """A runner by name: what it reads, how it is opened, and why it may not run.

    ``reads``: "model" a ModelFolder, "onnx" or "engine" the path of a .onnx or .plan. ``unavailable`` takes a device
    and answers in words, None if the runner can run there. ``node_times``: opens the file with the runtime's own
    profiler on, None if it has none that says the times of nodes.
    """

    name: str
    reads: Reads
    open: Callable[..., Runner]
    unavailable: Callable[[str], str | None] = lambda device: None
    takes_dtype: bool = False
    node_times: Callable[[Path, str], NodeTimes | None] = lambda source, device: None


def known_runners() -> list[str]:
    """The names of all runners, whether they are available here or not."""
    return list(entries(runners, "RUNNER"))


def runner_reads(name: str) -> Reads:
    """What ``open_runner`` needs as source."""
    return _kind(name).reads


def precision_options(name: str, dtype: str) -> dict[str, str]:
    """The options that make a runner compute in ``dtype``; none for one whose file has its own precision."""
    return {"dtype": dtype} if _kind(name).takes_dtype else {}


def unavailable(name: str, device: str = "cpu") -> str | None:
    """Why a runner cannot run on ``device`` of this machine, in words; None if it can."""
    return _kind(name).unavailable(device) or _no_device(device)


def check_available(name: str, device: str = "cpu") -> None:
    """Raise UsageError for an unknown name, MissingToolError if the runner is not available on this machine."""
    if reason := unavailable(name, device):
        raise MissingToolError(f"The runner {name} is not available on {device}.", found=reason)


def open_runner(name: str, source: ModelFolder | Path, *, device: str = "cpu", **options: Any) -> Runner:
    """Open a runner of ``source``; torch runners take ``dtype`` (fp32, fp16, bf16), a file has its own.

    Raises UsageError for an unknown name, MissingToolError if the runner is not available on this machine.
    """
    kind = _kind(name)
    check_available(name, device)
    if isinstance(source, ModelFolder) != (kind.reads == "model"):
        raise DtkError(f"The runner {name} cannot open {source}.", expected=f"its {kind.reads}")
    return kind.open(source, device=device, **options)


def open_node_times(name: str, source: Path, device: str) -> NodeTimes | None:
    """The runner of an exported denoiser with its own profiler on; None if it has none."""
    check_available(name, device)
    return _kind(name).node_times(source, device)


def _kind(name: str) -> RunnerKind:
    kind: RunnerKind = entry(runners, "RUNNER", "runner", name)
    return kind


def _no_device(device: str) -> str | None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return None
