"""A TensorRT engine opened where it fits: the package, its version, and the GPU it was built for."""

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
FIRST_AMPERE = 80


class TensorRTEngine:
    """An engine of one output on a device, with memory for the largest batch of each of its inputs.

    ``stored`` is its entry in the manifest: the package and version that built it, for which compute capabilities
    (none: whatever the package builds for by default, and the runtime judges) and for which model of GPU. ``weights``
    is the ONNX file, read for an engine that was built without them. Raises UnfitError for an engine that does not fit
    this machine.
    """

    def __init__(self, path: Path, stored: Mapping[str, Any], *, device_id: int, batch: int, weights: Path) -> None:
        trt = _package(stored)
        self.cuda, self.batch = Cuda(device_id), batch
        _check_gpu(self.cuda, stored)
        logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._runtime.engine_host_code_allowed = bool(stored.get("version_compatible"))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is not None and stored.get("stripped"):
            _refit(trt, self._engine, logger, weights)
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            here = self.cuda.capability
            raise UnfitError(f"{stored['package']} {stored['version']} refuses it on this GPU ({here}).")
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        (self.output,) = set(names) - set(self.inputs)
        self._buffers: dict[str, int] = {}

    def feed(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Upload inputs, at most ``batch`` items each, and bind them."""
        for name, array in arrays.items():
            contiguous = np.ascontiguousarray(array)
            address = self.memory(name, array[:1].nbytes)
            self.bind(name, contiguous.shape, address)  # refuses a batch that the memory does not hold either
            self.cuda.upload(address, contiguous)

    def memory(self, name: str, item_bytes: int) -> int:
        """The address of what was taken once for ``batch`` items of a tensor."""
        if name not in self._buffers:
            self._buffers[name] = self.cuda.allocate(self.batch * item_bytes)
        return self._buffers[name]

    def bind(self, name: str, shape: tuple[int, ...], address: int) -> None:
        """Say where an input lies."""
        if not self._context.set_input_shape(name, shape):
            raise RuntimeError(f"The TensorRT engine takes no {name} of shape {shape}.")
        self._context.set_tensor_address(name, address)

    def output_shape(self) -> tuple[int, ...]:
        """The output's shape for the inputs that are bound."""
        return tuple(self._context.get_tensor_shape(self.output))

    def run(self, address: int) -> None:
        """Enqueue a call that writes its output to ``address``."""
        self._context.set_tensor_address(self.output, address)
        if not self._context.execute_async_v3(self.cuda.stream):
            raise RuntimeError("TensorRT could not enqueue a step.")


class TensorRTGraph:
    """Any graph of one float32 output as an engine: arrays in and out by name."""

    def __init__(self, path: Path, stored: Mapping[str, Any], *, device_id: int, batch: int, weights: Path) -> None:
        self._engine = TensorRTEngine(path, stored, device_id=device_id, batch=batch, weights=weights)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        opened = self._engine
        opened.cuda.use()  # requests may come on another thread than the one that loaded the model
        opened.feed(arrays)
        output = np.empty(opened.output_shape(), np.float32)
        address = opened.memory(opened.output, output[:1].nbytes)
        opened.run(address)
        opened.cuda.download(output, address)
        return {opened.output: output}


def _check_gpu(cuda: Cuda, stored: Mapping[str, Any]) -> None:
    here, built_for = cuda.capability, stored["compute_capability"]
    if built_for and here not in built_for:
        raise UnfitError(f"it was built for {', '.join(built_for)}, this GPU is {here}.")
    if stored.get("hardware_compatible") == "ampere" and int(here[2:]) < FIRST_AMPERE:
        raise UnfitError(f"it was built for GPUs from sm{FIRST_AMPERE} on, this one is {here}.")
    if stored.get("gpu") and cuda.name != stored["gpu"]:
        raise UnfitError(f"it was built for {stored['gpu']}, this GPU is {cuda.name}.")


def _package(stored: Mapping[str, Any]) -> ModuleType:
    name, version = stored["package"], stored["version"]
    if name not in PACKAGES:
        raise UnfitError(f"it names the package {name}; expected one of {', '.join(PACKAGES)}.")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UnfitError(f"it needs {name} {version}: {error}") from error
    here, built = ([int(part) for part in text.split(".")[:3]] for text in (module.__version__, version))
    later = stored.get("version_compatible") and here[0] == built[0] and here >= built
    if module.__version__ != version and not later:
        raise UnfitError(f"it needs {name} {version}, installed is {module.__version__}.")
    return module


def _refit(trt: ModuleType, engine: Any, logger: Any, weights: Path) -> None:
    refitter = trt.Refitter(engine, logger)
    onnx_refitter = trt.OnnxParserRefitter(refitter, logger)
    if not onnx_refitter.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
        raise UnfitError(f"the weights of {weights.name} do not fit it.")
