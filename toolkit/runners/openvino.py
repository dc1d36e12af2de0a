"""The runner on OpenVINO: an exported denoiser on a processor, in float32 or, on AMX or AVX512-BF16, in bfloat16."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from packaging.version import Version

from toolkit.core.environment import installed_version
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.core.files import file_sha256, files_sha256, user_cache
from toolkit.runners.base import RunnerKind, Times

if TYPE_CHECKING:
    import openvino

OLDEST = "2026.4"
OWN_SOURCE = ("Exception from ", "Check '")  # how lines begin that name a place in OpenVINO's source
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVINORunner:
    """An exported denoiser (``.onnx``) in OpenVINO with as many threads as torch has, one stream.

    The graph is compiled for each set of input shapes, as static shapes run faster; compiled models are cached on disk.
    ``dtype``: the precision it computes in, behind float32 inputs and output. Raises MissingToolError if the processor
    lacks it, DtkError for a file that OpenVINO cannot convert.
    """

    name = "openvino"

    def __init__(self, path: Path, *, device: str = "cpu", dtype: str = "fp32", profiling: bool = False) -> None:
        self.device = device
        if reason := _unsupported(_core(), dtype):
            raise MissingToolError(f"OpenVINO cannot compute in {dtype} here.", found=reason, expected="fp32")
        try:
            self._model = _core().read_model(path)
        except RuntimeError as error:
            raise DtkError(f"OpenVINO cannot convert {path}.", found=_words(error)) from error
        self._inputs = [port.get_any_name() for port in self._model.inputs]
        self._options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            # a folder per file and precision: from a shared one OpenVINO 2026.4 loads models of other weights
            "CACHE_DIR": str(user_cache("openvino") / f"{_sha256(path)[:16]}-{dtype}"),
            "PERF_COUNT": profiling,
        }
        self._requests: dict[tuple[tuple[int, ...], ...], openvino.InferRequest] = {}
        self._last: openvino.InferRequest | None = None

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        feed = {"sample": sample, "timestep": timestep, **conditioning}
        if set(feed) != set(self._inputs):
            raise DtkError(
                "The exported denoiser takes other inputs.", found=", ".join(feed), expected=", ".join(self._inputs)
            )
        shapes = tuple(tuple(feed[name].shape) for name in self._inputs)
        if shapes not in self._requests:
            self._requests[shapes] = self._compiled(dict(zip(self._inputs, shapes, strict=True)))
        self._last = self._requests[shapes]
        self._last.infer({name: np.ascontiguousarray(tensor.numpy()) for name, tensor in feed.items()})
        return torch.from_numpy(self._last.get_output_tensor().data.copy())

    def _compiled(self, shapes: dict[str, tuple[int, ...]]) -> openvino.InferRequest:
        model = self._model.clone()
        try:
            model.reshape(shapes)
            return _core().compile_model(model, "CPU", self._options).create_infer_request()
        except RuntimeError as error:
            raise DtkError(
                "OpenVINO cannot compile this denoiser.", found=_words(error), do="leave the runner 'openvino' out"
            ) from error

    def node_times(self) -> Times:
        """Milliseconds of each node that the last call ran; needs ``profiling``."""
        assert self._last is not None, "there was a call"
        return [(info.node_name, info.real_time.total_seconds() * 1e3) for info in self._last.profiling_info]

    def close(self) -> None:
        self._requests.clear()
        del self._model, self._last


class OpenVINONodes:
    """An exported denoiser in OpenVINO with its own profiler on."""

    def __init__(self, path: Path, *, dtype: str = "fp32") -> None:
        self._runner = OpenVINORunner(path, dtype=dtype, profiling=True)
        self._calls: list[Times] = []

    def __call__(self, **inputs: torch.Tensor) -> None:
        self._runner(**inputs)
        self._calls.append(self._runner.node_times())

    def close(self) -> list[Times]:
        self._runner.close()
        return self._calls


@cache
def _core() -> openvino.Core:
    """The one of this process, which is never deleted.

    Each brings a stack for signal handlers. Where the first of two is deleted first, the second then puts the first's
    back, which is gone, and the next signal, a Ctrl-C, ends the process without a word (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _words(error: RuntimeError) -> str:
    """What OpenVINO says, the operators it does not know included, without the places in its own source."""
    lines = [line.strip("- ") for line in str(error).splitlines() if not line.startswith(OWN_SOURCE)]
    return "; ".join(line for line in lines if line) or type(error).__name__


def _sha256(path: Path) -> str:
    """One hash of an exported file and of its weights, which may lie in a second file."""
    return files_sha256({file.name: file_sha256(file) for file in path.parent.glob(f"{path.name}*")})


def _unsupported(core: Any, dtype: str) -> str | None:
    """Why this processor does not compute in ``dtype``, None if it does."""
    if dtype not in PRECISIONS:
        return f"precision {dtype}"
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype == "bf16" and "BF16" not in capabilities:
        return f"a processor without AMX or AVX512-BF16 (OpenVINO names {', '.join(capabilities)})"
    return None


def unavailable(device: str) -> str | None:
    """Why OpenVINO cannot compute on ``device``, None if it can."""
    if device != "cpu":
        return "OpenVINO computes on the processor: --device cpu"
    if find_spec("openvino") is None:
        return 'the package openvino is not installed: pip install ".[openvino]"'
    version = installed_version("openvino")
    if version and Version(version) < Version(OLDEST):
        return f'openvino {version} is installed, dtk needs {OLDEST} or later: pip install -U ".[openvino]"'
    return None


RUNNER = RunnerKind(
    "openvino",
    "onnx",
    OpenVINORunner,
    unavailable,
    takes_dtype=True,
    node_times=lambda source, device, **options: OpenVINONodes(source, **options),
)
