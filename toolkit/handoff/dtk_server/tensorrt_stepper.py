"""The step graph as a TensorRT engine, with the images kept on the device from the first noise to the last step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .tensorrt_engine import TensorRTEngine


class TensorRTStepper:
    """What OnnxRuntimeStepper is, on an engine of TensorRT or TensorRT for RTX.

    Arguments and errors are those of TensorRTEngine.
    """

    def __init__(
        self,
        path: Path,
        stored: Mapping[str, Any],
        *,
        device_id: int,
        image: tuple[int, ...],
        batch: int,
        weights: Path,
    ) -> None:
        self._engine = TensorRTEngine(path, stored, device_id=device_id, batch=batch, weights=weights)
        self._cuda, self._image, self._batch = self._engine.cuda, image, batch
        self._bytes = 4 * int(np.prod(image))  # of one float32 image
        self._state, self._next = (self._cuda.allocate(batch * self._bytes) for _ in range(2))

    @property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs."""
        return self._engine.inputs

    def load(self, noise: np.ndarray) -> None:
        """Start a batch from ``noise``, float32 (B, C, H, W) with B at most the engine's batch."""
        self._cuda.use()  # requests may come on another thread than the one that loaded the model
        self._cuda.upload(self._state, np.ascontiguousarray(noise, np.float32))

    def step(self, count: int, feed: Mapping[str, np.ndarray]) -> None:
        """Advance the first ``count`` images; ``feed`` holds the graph's other inputs, (count, ...) each."""
        if count > self._batch:  # the device's memory ends there
            raise ValueError(f"This stepper was opened for {self._batch} images, not for {count}.")
        self._engine.feed(feed)
        self._engine.bind("sample", (count, *self._image), self._state)
        self._engine.run(self._next)
        self._state, self._next = self._next, self._state

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Images ``start`` to ``stop`` of the batch as they are now, float32 (stop - start, C, H, W)."""
        images = np.empty((stop - start, *self._image), np.float32)
        if len(images):
            self._cuda.download(images, self._state + start * self._bytes)
        return images
