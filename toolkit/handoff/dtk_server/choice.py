"""Which runtime computes the step graph: the one the configuration names, or another only if it says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np

from .graph import OnnxRuntimeGraph
from .manifest import inside
from .onnxruntime_stepper import OnnxRuntimeStepper
from .refusal import UnfitError
from .tensorrt_engine import TensorRTGraph
from .tensorrt_stepper import TensorRTStepper

T = TypeVar("T")
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
    path = inside(version, PurePosixPath(stored["file"]))
    if stored["runtime"] == "tensorrt":
        options: dict[str, Any] = {"device_id": device_id, "batch": batch, "weights": path}
        stepper = _first_engine(
            version, stored["engines"], stored["fallback"], warn, partial(TensorRTStepper, image=image, **options)
        )
        if stepper is not None:
            return stepper
    return OnnxRuntimeStepper(path, device=device, device_id=device_id, threads=threads, image=image, batch=batch)


def open_graph(
    version: Path,
    part: Mapping[str, Any],
    fallback: str,
    warn: Warn,
    *,
    batch: int,
    device: str,
    device_id: int,
    threads: int,
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """The decoder or conditioner ``part`` of the manifest: the first of its engines that this GPU takes.

    ONNX Runtime computes one that was handed off without an engine, and, if ``fallback`` allows it, one whose engines
    cannot be loaded. Raises UnfitError if it does not.
    """
    path = inside(version, PurePosixPath(part["file"]))
    if part.get("engines"):
        options: dict[str, Any] = {"device_id": device_id, "batch": batch, "weights": path}
        graph = _first_engine(version, part["engines"], fallback, warn, partial(TensorRTGraph, **options))
        if graph is not None:
            return graph
    return OnnxRuntimeGraph(path, device=device, device_id=device_id, threads=threads)


def _first_engine(
    version: Path, engines: Sequence[Mapping[str, Any]], fallback: str, warn: Warn, open_engine: Callable[..., T]
) -> T | None:
    """The first engine that can be loaded, None if none can and ONNX Runtime may serve instead."""
    reasons = []
    for engine in engines:
        path = inside(version, PurePosixPath(engine["file"]))
        try:
            return open_engine(path, engine)
        except UnfitError as unfit:
            reasons.append(f"{path.name}: {unfit}")
    refusal = f"No TensorRT engine can be loaded: {' '.join(reasons) or 'there is none.'}"
    if fallback != "onnxruntime":
        raise UnfitError(f"{refusal} The handoff allows no other runtime (fallback: {fallback}).")
    warn(f"{refusal} ONNX RUNTIME SERVES INSTEAD, as the handoff allows: expect another latency.")
    return None
