"""Any exported graph in ONNX Runtime, on exactly the provider that was requested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from .refusal import UnfitError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LOG_ERRORS_ONLY = 3


class OnnxRuntimeGraph:
    """Arrays in and out by name."""

    def __init__(self, path: Path, *, device: str, device_id: int, threads: int) -> None:
        self._session = open_session(path, device, device_id, threads)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(arrays)), strict=True))


def open_session(path: Path, device: str, device_id: int, threads: int) -> onnxruntime.InferenceSession:
    """A session on exactly the provider that was requested: ONNX Runtime falls back on the CPU in silence."""
    wanted, available = PROVIDERS[device], onnxruntime.get_available_providers()
    if wanted not in available:
        raise UnfitError(f"onnxruntime {onnxruntime.__version__} has no {wanted}, only {', '.join(available)}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = LOG_ERRORS_ONLY
    place = {} if device == "cpu" else {"device_id": device_id}
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(wanted, place)])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise UnfitError(f"onnxruntime {onnxruntime.__version__} cannot load {path.name}: {error}") from error
    if session.get_providers()[0] != wanted:
        raise UnfitError(f"onnxruntime fell back on {session.get_providers()[0]}; the configuration needs {wanted}.")
    return session
