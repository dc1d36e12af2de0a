"""Exported graphs in OpenVINO, on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .refusal import UnfitError

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVINOGraph:
    """Arrays in and out by name, for batches of any size; computed in ``dtype``, fp32 or bf16, float32 at the borders.

    Raises UnfitError if OpenVINO is not installed, cannot convert the file, or the processor has no bfloat16.
    """

    def __init__(self, path: Path, *, threads: int, dtype: str = "fp32") -> None:
        try:
            import openvino
        except ImportError as error:
            raise UnfitError(f"OpenVINO cannot be imported: {error}.") from error
        core = _core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if dtype == "bf16" and "BF16" not in capabilities:
            raise UnfitError(f"this processor has neither AMX nor AVX512-BF16, only {', '.join(capabilities)}.")
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        }
        try:
            self._request = core.compile_model(path, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise UnfitError(f"OpenVINO {openvino.__version__} cannot load {path.name}: {error}") from error
        self.inputs = [port.get_any_name() for port in self._request.model_inputs]

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        results = self._request.infer(feed)
        return {port.get_any_name(): np.array(array) for port, array in results.items()}


@cache
def _core() -> Any:
    """The one of this process, never deleted: the second of two could put back a stack for signals that is gone."""
    import openvino

    return openvino.Core()


class OpenVINOStepper:
    """``(x_t, t, coefficients, ...) -> x_{t-1}`` for the first rows of a batch; see ``OnnxRuntimeStepper``."""

    def __init__(self, path: Path, *, threads: int, dtype: str, image: tuple[int, ...], batch: int) -> None:
        self._graph = OpenVINOGraph(path, threads=threads, dtype=dtype)
        self._state = np.zeros((batch, *image), np.float32)

    @property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs."""
        return self._graph.inputs

    def load(self, noise: np.ndarray) -> None:
        """Start a batch from ``noise``, float32 (B, C, H, W) with B at most the stepper's batch."""
        self._state[: len(noise)] = noise

    def step(self, count: int, feed: Mapping[str, np.ndarray]) -> None:
        """Advance the first ``count`` images; ``feed`` holds the graph's other inputs, (count, ...) each."""
        (self._state[:count],) = self._graph({"sample": self._state[:count], **feed}).values()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Images ``start`` to ``stop`` of the batch as they are now, float32 (stop - start, C, H, W)."""
        return self._state[start:stop].copy()
