"""Which runtime computes the step graph: the one the configuration names, or another only if it says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from .manifest import inside
from .onnxruntime_stepper import OnnxRuntimeStepper
from .refusal import UnfitError
from .tensorrt_stepper import TensorRTStepper

Warn = Callable[[str], None]


class Stepper(Protocol):
    """The step graph on a batch that is kept where it is computed."""

    @property
    def inputs(self) -> Sequence[str]: ...
    def load(self, noise: np.ndarray) -> None: ...
    def step(self, count: int, feed: Mapping[str, np.ndarray]) -> None: ...
    def rows(self, start: int, stop: int) -> np.ndarray: ...


def open_stepper(
    version: Path,
    stored: Mapping[str, Any],
    warn: Warn,
    *,
    image: tuple[int, ...],
    batch: int,
    device: str,
    device_id: int,
    threads: int,
) -> Stepper:
    """The stepper of ``stored``, the manifest's: for TensorRT the first engine that this GPU takes.

    Where none can be loaded, ONNX Runtime takes its place if the manifest allows it, and ``warn`` is called. Raises
    UnfitError, naming each engine and its reason, if it does not.
    """
    if stored["runtime"] == "tensorrt":
        reasons = []
        for engine in stored["engines"]:
            path = inside(version, PurePosixPath(engine["file"]))
            try:
                return TensorRTStepper(path, engine, device_id=device_id, image=image, batch=batch)
            except UnfitError as unfit:
                reasons.append(f"{path.name}: {unfit}")
        refusal = f"No TensorRT engine can be loaded: {' '.join(reasons) or 'there is none.'}"
        if stored["fallback"] != "onnxruntime":
            raise UnfitError(f"{refusal} The handoff allows no other runtime (fallback: {stored['fallback']}).")
        warn(f"{refusal} ONNX RUNTIME SERVES INSTEAD, as the handoff allows: expect another latency.")
    path = inside(version, PurePosixPath(stored["file"]))
    return OnnxRuntimeStepper(path, device=device, device_id=device_id, threads=threads, image=image, batch=batch)
