"""The step graph as a TensorRT engine, with the images kept on the device from the first noise to the last step."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .cuda import Cuda
from .refusal import UnfitError

PACKAGES = ("tensorrt", "tensorrt_rtx")


class TensorRTStepper:
    """What OnnxRuntimeStepper is, on an engine of TensorRT or TensorRT for RTX.

    ``stored`` is the engine's entry in the manifest: the package and version that built it, and for which compute
    capabilities (none: whatever the package builds for by default, and the runtime judges). Raises UnfitError for a
    engine that does not fit this machine.
    """

    def __init__(self, path: Path, stored: Mapping[str, Any], *, device_id: int, image: tuple[int, ...], batch: int):
        trt = _package(stored["package"], stored["version"])
        self._cuda, self._image = Cuda(device_id), image
        here, built_for = self._cuda.capability, stored["compute_capability"]
        if built_for and here not in built_for:
            raise UnfitError(f"it was built for {', '.join(built_for)}, this GPU is {here}.")
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise UnfitError(f"{stored['package']} {stored['version']} refuses it on this GPU ({here}).")
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        (self._output,) = set(names) - set(self.inputs)
        self._bytes = 4 * int(np.prod(image))  # of one float32 image
        self._state, self._next = (self._cuda.allocate(batch * self._bytes) for _ in range(2))
        self._batch = batch
        self._buffers: dict[str, int] = {}

    def load(self, noise: np.ndarray) -> None:
        """Start a batch from ``noise``, float32 (B, C, H, W) with B at most the engine's batch."""
        self._cuda.use()  # requests may come on another thread than the one that loaded the model
        self._cuda.upload(self._state, np.ascontiguousarray(noise, np.float32))

    def step(self, count: int, feed: Mapping[str, np.ndarray]) -> None:
        """Advance the first ``count`` images; ``feed`` holds the graph's other inputs, (count, ...) each."""
        if count > self._batch:  # the device's memory ends there
            raise ValueError(f"This stepper was opened for {self._batch} images, not for {count}.")
        for name, array in feed.items():
            self._bind(name, array.shape, self._uploaded(name, np.ascontiguousarray(array)))
        self._bind("sample", (count, *self._image), self._state)
        self._context.set_tensor_address(self._output, self._next)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RuntimeError("TensorRT could not enqueue a step.")
        self._state, self._next = self._next, self._state

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Images ``start`` to ``stop`` of the batch as they are now, float32 (stop - start, C, H, W)."""
        images = np.empty((stop - start, *self._image), np.float32)
        if len(images):
            self._cuda.download(images, self._state + start * self._bytes)
        return images

    def _uploaded(self, name: str, array: np.ndarray) -> int:
        """The address of an input, in memory that was taken once for the largest batch."""
        if name not in self._buffers:
            self._buffers[name] = self._cuda.allocate(self._batch * array[:1].nbytes)
        self._cuda.upload(self._buffers[name], array)
        return self._buffers[name]

    def _bind(self, name: str, shape: tuple[int, ...], address: int) -> None:
        if not self._context.set_input_shape(name, shape):
            raise RuntimeError(f"The TensorRT engine takes no {name} of shape {shape}.")
        self._context.set_tensor_address(name, address)


def _package(name: str, version: str) -> ModuleType:
    if name not in PACKAGES:
        raise UnfitError(f"it names the package {name}; expected one of {', '.join(PACKAGES)}.")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UnfitError(f"it needs {name} {version}: {error}") from error
    if module.__version__ != version:
        raise UnfitError(f"it needs {name} {version}, installed is {module.__version__}.")
    return module
