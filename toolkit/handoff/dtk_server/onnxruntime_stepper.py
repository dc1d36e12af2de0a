"""The step graph in ONNX Runtime, with the images kept on the device from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from .graph import open_session


class OnnxRuntimeStepper:
    """``(x_t, t, coefficients, ...) -> x_{t-1}`` for the first rows of a batch that is kept on the device.

    Two buffers alternate as input and output. A batch is loaded with ``load``, advanced with ``step`` and read with
    ``rows``; rows behind the ``count`` of a step keep whatever they held and must have been read before.
    """

    def __init__(self, path: Path, *, device: str, device_id: int, threads: int, image: tuple[int, ...], batch: int):
        self._device, self._device_id = device, device_id
        self._session = open_session(path, device, device_id, threads)
        self._image = image
        self._state, self._next = (self._buffer(batch) for _ in range(2))
        (self._output,) = (node.name for node in self._session.get_outputs())

    @property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs."""
        return [node.name for node in self._session.get_inputs()]

    def load(self, noise: np.ndarray) -> None:
        """Start a batch from ``noise``, float32 (B, C, H, W) with B at most the stepper's batch."""
        batch = np.zeros(self._state.shape(), np.float32)
        batch[: len(noise)] = noise
        self._state.update_inplace(batch)

    def step(self, count: int, feed: Mapping[str, np.ndarray]) -> None:
        """Advance the first ``count`` images; ``feed`` holds the graph's other inputs, (count, ...) each."""
        binding = self._session.io_binding()
        shape = (count, *self._image)
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        binding.bind_input("sample", *self._place, shape, self._state.data_ptr())
        binding.bind_output(self._output, *self._place, shape, self._next.data_ptr())
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        self._state, self._next = self._next, self._state

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Images ``start`` to ``stop`` of the batch as they are now, float32 (stop - start, C, H, W)."""
        return np.array(self._state.numpy()[start:stop])

    @property
    def _place(self) -> tuple[str, int, type]:
        return self._device, self._device_id, np.float32

    def _buffer(self, batch: int) -> onnxruntime.OrtValue:
        empty = np.zeros((batch, *self._image), np.float32)
        return onnxruntime.OrtValue.ortvalue_from_numpy(empty, self._device, self._device_id)
