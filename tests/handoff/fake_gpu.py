"""A GPU made of this process's memory, and a TensorRT whose only engine is x <- a x + b noise + label.

It stands in for two packages that need a GPU, so that what is tested is our side: which calls, in which order, with
which addresses and shapes. Names and their results are those of cuda-bindings 13.5 and TensorRT 11.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

PLAN, DECODER = b"a x + b noise + label", b"each pixel of a latent twice as large, twice"
VERSION = "1.7.1.116"


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Attribute(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class Stream:
    """cudaStream_t."""

    def __int__(self) -> int:
        return 7


class Gpu:
    """What the fake packages share: memory by address, the device's capability, and what was done."""

    def __init__(
        self, capability: tuple[int, int] = (8, 9), memory_bytes: int = 2**20, name: str = "NVIDIA L4"
    ) -> None:
        self.capability, self.left_bytes, self.name = capability, memory_bytes, name
        self.refits: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.copies: list[tuple[Kind, int]] = []
        self.executed: list[int] = []

    def array(self, address: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert any(start <= address and address + size <= start + block.nbytes for start, block in self.memory.items())
        return np.ctypeslib.as_array((ctypes.c_char * size).from_address(address)).view(dtype).reshape(shape)

    def runtime(self) -> ModuleType:
        """cuda.bindings.runtime."""
        module = ModuleType("cuda.bindings.runtime")

        def malloc(size: int) -> tuple[Error, int | None]:
            if size > self.left_bytes:
                return Error.cudaErrorMemoryAllocation, None
            block = np.full(size, 0xFF, np.uint8)  # whatever lay there: NaN
            self.memory[block.ctypes.data] = block
            self.left_bytes -= size
            return Error.cudaSuccess, block.ctypes.data

        def copy(target: int, source: int, size: int, kind: Kind, stream: int) -> tuple[Error]:
            device = target if kind == Kind.cudaMemcpyHostToDevice else source
            self.array(device, (size,), np.uint8)
            ctypes.memmove(target, source, size)
            self.copies.append((kind, size))
            return (Error.cudaSuccess,)

        module.cudaMemcpyKind, module.cudaDeviceAttr = Kind, Attribute
        module.cudaSetDevice = lambda device: (Error.cudaSuccess,)
        module.cudaStreamCreate = lambda: (Error.cudaSuccess, Stream())
        module.cudaStreamSynchronize = lambda stream: (Error.cudaSuccess,)
        module.cudaDeviceGetAttribute = lambda name, device: (Error.cudaSuccess, self.capability[name - 75])
        properties = SimpleNamespace(name=self.name.encode())
        module.cudaGetDeviceProperties = lambda device: (Error.cudaSuccess, properties)
        module.cudaMalloc, module.cudaMemcpyAsync = malloc, copy
        return module

    def tensorrt(self, version: str = VERSION) -> ModuleType:
        """tensorrt_rtx."""
        module = ModuleType("tensorrt_rtx")
        module.__version__ = version
        module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
        module.TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
        modes = dict.fromkeys(
            ("sample", "timestep", "coefficients", "noise", "class_labels"), module.TensorIOMode.INPUT
        )
        modes["previous"] = module.TensorIOMode.OUTPUT
        around = {"latents": module.TensorIOMode.INPUT, "images": module.TensorIOMode.OUTPUT}
        engines = {PLAN: engine_of(modes, Context, self), DECODER: engine_of(around, Decoder, self)}
        module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=engines.get)
        module.Refitter = lambda engine, logger: SimpleNamespace(refit_cuda_engine=lambda: True)
        module.OnnxParserRefitter = lambda refitter, logger: SimpleNamespace(
            refit_from_file=lambda onnx: self.refits.append(onnx) is None
        )
        return module

    def install(self, monkeypatch: pytest.MonkeyPatch, version: str = VERSION) -> None:
        """Put both packages where an import finds them."""
        runtime = self.runtime()
        bindings, cuda = ModuleType("cuda.bindings"), ModuleType("cuda")
        bindings.runtime, cuda.bindings = runtime, bindings
        for name, module in (("cuda", cuda), ("cuda.bindings", bindings), ("cuda.bindings.runtime", runtime)):
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", self.tensorrt(version))


def engine_of(modes: dict[str, Any], context: Any, gpu: Gpu) -> Any:
    """An engine with these inputs and outputs."""
    return SimpleNamespace(
        num_io_tensors=len(modes),
        get_tensor_name=lambda number: list(modes)[number],
        get_tensor_mode=modes.__getitem__,
        create_execution_context=lambda: context(gpu),
    )


class Context:
    """An execution context of the engine, for batches of 1 to 5."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return 1 <= shape[0] <= 5

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        (count,) = {shape[0] for shape in self._shapes.values()}
        dtypes = {"timestep": np.int64, "class_labels": np.int64}
        given = {
            name: self._gpu.array(self._addresses[name], shape, dtypes.get(name, np.float32))
            for name, shape in self._shapes.items()
        }
        assert self._addresses["previous"] != self._addresses["sample"]
        a, b = (given["coefficients"][:, n, None, None, None] for n in range(2))
        label = (given["class_labels"] + given["timestep"])[:, None, None, None].astype(np.float32)
        previous = self._gpu.array(self._addresses["previous"], self._shapes["sample"], np.float32)
        previous[:] = a * given["sample"] + b * given["noise"] + label
        self._gpu.executed.append(count)
        return True


class Decoder(Context):
    """Of an engine that makes of latents (B, C, H, W) images (B, C, H, 2 W) of twice their values."""

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "images"
        *shape, width = self._shapes["latents"]
        return (*shape, 2 * width)

    def execute_async_v3(self, stream: int) -> bool:
        latents = self._gpu.array(self._addresses["latents"], self._shapes["latents"], np.float32)
        images = self._gpu.array(self._addresses["images"], self.get_tensor_shape("images"), np.float32)
        images[:] = 2 * latents.repeat(2, axis=-1)
        return True
