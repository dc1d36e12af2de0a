"""What a runner is (something that computes the denoiser), and the runners by name: one file each, its ``RUNNER``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from toolkit import runners
from toolkit.core.errors import DtkError, MissingToolError, unknown
from toolkit.core.files import read_json
from toolkit.core.registry import entries, entry
from toolkit.models.folder import ModelFolder

if TYPE_CHECKING:
    import torch

Reads = Literal["model", "onnx", "engine"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""What a runner computes in; tf32 is float32 whose products have 10 bits of mantissa, on an NVIDIA GPU."""


@dataclass(frozen=True)
class RunnerSpec:
    """A runner and the precision it is to compute in, written NAME or NAME:DTYPE, such as openvino:bf16.

    ``dtype`` None: the stage's own for a runner that takes one, else the file's.
    """

    name: str
    dtype: Precision | None = None

    def __str__(self) -> str:
        return self.name if self.dtype is None else f"{self.name}:{self.dtype}"


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
    node_times: Callable[..., NodeTimes | None] = lambda source, device, **options: None


def _kinds() -> dict[str, RunnerKind]:
    return entries(runners, "RUNNER", RunnerKind)


def known_runners() -> list[str]:
    """The names of all runners, whether they are available here or not."""
    return list(_kinds())


def parse_runner(text: str) -> RunnerSpec:
    """Read NAME or NAME:DTYPE. Raises UsageError for an unknown runner or precision."""
    name, _, dtype = text.partition(":")
    _kind(name)
    if text != name and dtype not in get_args(Precision):
        raise unknown("precision", dtype, list(get_args(Precision)))
    return RunnerSpec(name, dtype or None)  # type: ignore[arg-type]


def runner_reads(name: str) -> Reads:
    """What ``open_runner`` needs as source."""
    return _kind(name).reads


def precision_options(name: str, dtype: str) -> dict[str, Any]:
    """The options that make a runner compute in ``dtype``; none for one whose file has its own precision."""
    kind = _kind(name)
    if kind.takes_dtype:
        return {"dtype": dtype}
    return {"tf32": True} if (kind.reads, dtype) == ("onnx", "tf32") else {}


def precision_of(spec: RunnerSpec, source: ModelFolder | Path, default: str = "fp32") -> str:
    """What ``spec`` computes ``source`` in: as it says, else ``default``, else the file's own precision.

    Raises DtkError for a file in another precision than ``spec`` says.
    """
    if isinstance(source, ModelFolder) or _kind(spec.name).takes_dtype:
        return spec.dtype or default
    description = read_json(source.with_suffix(".json"))
    facts = description.get("facts", description)
    own = "tf32" if facts.get("tf32") and facts["dtype"] == "fp32" else str(facts["dtype"])
    if spec.dtype in (None, own):
        return own
    if (_kind(spec.name).reads, spec.dtype, own) == ("onnx", "tf32", "fp32"):
        return "tf32"  # a way to multiply that the session takes, not a type of the file
    raise DtkError(
        f"The runner {spec} needs another file than {source}.",
        found=f"one in {own}",
        do="dtk export RUN --trt --tf32" if spec.dtype == "tf32" else f"dtk export RUN --dtype {spec.dtype}",
    )


def open_spec(spec: RunnerSpec, source: ModelFolder | Path, *, device: str = "cpu", default: str = "fp32") -> Runner:
    """Open a runner of ``source`` in the precision of ``precision_of``."""
    options = precision_options(spec.name, precision_of(spec, source, default))
    return open_runner(spec.name, source, device=device, **options)


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


def open_node_times(name: str, source: Path, device: str, **options: Any) -> NodeTimes | None:
    """The runner of an exported denoiser with its own profiler on, opened with ``options``; None if it has none."""
    check_available(name, device)
    return _kind(name).node_times(source, device, **options)


def _kind(name: str) -> RunnerKind:
    kind: RunnerKind = entry(_kinds(), "runner", name)
    return kind


def _no_device(device: str) -> str | None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return None
