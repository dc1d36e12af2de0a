"""A GPU's memory and its queue of work, by the CUDA runtime's own calls (package cuda-bindings): no torch is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .refusal import UnfitError


class Cuda:
    """One device with a stream of its own. Everything raises UnfitError with CUDA's words if a call fails."""

    def __init__(self, device_id: int) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise UnfitError(f"A TensorRT engine needs the package cuda-bindings: {error}") from error
        self._runtime, self._device_id = runtime, device_id
        self.use()
        self.stream = int(self._call("cudaStreamCreate")[0])  # TensorRT takes the number, not CUDA's object

    def use(self) -> None:
        """Make the device this thread's: CUDA keeps one for each."""
        self._call("cudaSetDevice", self._device_id)

    @property
    def capability(self) -> str:
        """The compute capability, such as sm89."""
        attributes = self._runtime.cudaDeviceAttr
        wanted = (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
        return "sm" + "".join(str(self._call("cudaDeviceGetAttribute", one, self._device_id)[0]) for one in wanted)

    @property
    def name(self) -> str:
        """The model, such as NVIDIA L4."""
        (properties,) = self._call("cudaGetDeviceProperties", self._device_id)
        name: bytes = properties.name
        return name.decode()

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory, which is kept until the process ends."""
        (address,) = self._call("cudaMalloc", size_bytes)
        return int(address)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it may be changed as soon as this returns (it is pageable memory)."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a contiguous array from the device, after all that was enqueued before."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)
        self._call("cudaStreamSynchronize", self.stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            raise UnfitError(f"CUDA refuses {name}: {error.name}.")
        return tuple(values)
