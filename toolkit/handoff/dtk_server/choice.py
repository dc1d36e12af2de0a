"""Which runtime computes the step graph: the one the configuration names, or another only if it says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np

from .graph import OnnxRuntimeGraph
from .manifest import inside
from .onnxruntime_stepper import OnnxRuntimeStepper
from .openvino_graph import OpenVINOGraph, OpenVINOStepper
from .refusal import UnfitError
from .tensorrt_engine import TensorRTGraph
from .tensorrt_stepper import TensorRTStepper

T = TypeVar("T")
Warn = Callable[[str], None]
Graph = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


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

    If the runtime cannot load it, ONNX Runtime takes its place where the manifest allows that, and ``warn`` is called.
    Raises UnfitError, with each reason, where it does not.
    """
    path = inside(version, PurePosixPath(stored["file"]))
    shape: dict[str, Any] = {"image": image, "batch": batch}
    runtime, _, dtype = stored["runtime"].partition(":")
    stepper: Stepper | None = None
    if runtime == "tensorrt":
        engine = partial(TensorRTStepper, device_id=device_id, weights=path, **shape)
        stepper = _first_engine(version, stored["engines"], stored["fallback"], warn, engine)
    elif runtime == "openvino":
        attempt = partial(OpenVINOStepper, path, threads=threads, dtype=dtype or "fp32", **shape)
        stepper = _first([(path.name, attempt)], "OpenVINO cannot serve", stored["fallback"], warn)
    return stepper or OnnxRuntimeStepper(path, device=device, device_id=device_id, threads=threads, **shape)


def open_graph(
    version: Path,
    part: Mapping[str, Any],
    step_graph: Mapping[str, Any],
    warn: Warn,
    *,
    batch: int,
    device: str,
    device_id: int,
    threads: int,
) -> Graph:
    """The decoder or conditioner ``part`` of the manifest, in the runtime of its ``step_graph``, OpenVINO in float32.

    ONNX Runtime computes one that was handed off without an engine for TensorRT, and, if the manifest allows it, one
    that the runtime cannot load. Raises UnfitError if it does not.
    """
    path, fallback = inside(version, PurePosixPath(part["file"])), step_graph["fallback"]
    graph: Graph | None = None
    if part.get("engines"):
        engine = partial(TensorRTGraph, device_id=device_id, batch=batch, weights=path)
        graph = _first_engine(version, part["engines"], fallback, warn, engine)
    elif step_graph["runtime"].startswith("openvino"):
        attempt = partial(OpenVINOGraph, path, threads=threads)
        graph = _first([(path.name, attempt)], "OpenVINO cannot serve", fallback, warn)
    return graph or OnnxRuntimeGraph(path, device=device, device_id=device_id, threads=threads)


def _first_engine(
    version: Path, engines: Sequence[Mapping[str, Any]], fallback: str, warn: Warn, open_engine: Callable[..., T]
) -> T | None:
    """The first engine that can be loaded, None if none can and ONNX Runtime may serve instead."""
    paths = [inside(version, PurePosixPath(engine["file"])) for engine in engines]
    attempts = [(path.name, partial(open_engine, path, engine)) for path, engine in zip(paths, engines, strict=True)]
    return _first(attempts, "No TensorRT engine can be loaded", fallback, warn)


def _first(attempts: Iterable[tuple[str, Callable[[], T]]], refusal: str, fallback: str, warn: Warn) -> T | None:
    """What the first attempt that fits returns, None if none does and ONNX Runtime may serve instead."""
    reasons = []
    for name, attempt in attempts:
        try:
            return attempt()
        except UnfitError as unfit:
            reasons.append(f"{name}: {unfit}")
    refusal = f"{refusal}: {' '.join(reasons) or 'there is none.'}"
    if fallback != "onnxruntime":
        raise UnfitError(f"{refusal} The handoff allows no other runtime (fallback: {fallback}).")
    warn(f"{refusal} ONNX RUNTIME SERVES INSTEAD, as the handoff allows: expect another latency.")
    return None
