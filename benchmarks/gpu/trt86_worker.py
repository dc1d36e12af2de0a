"""Builds and times engines of TensorRT 8.6.0, the last release whose wheel holds its libraries; for its Python 3.10.

    python3.10 trt86_worker.py build GRAPH.onnx ENGINE.plan
    python3.10 trt86_worker.py time INPUTS.npz ROUNDS DENSE.plan COMPRESSED.plan

Needs numpy and tensorrt==8.6.0 alone: the driver is called through ctypes. Prints one line of JSON last. ``time`` takes
both engines in turns, call by call, and each again as a CUDA graph. The graph is float32 and half precision allowed, as
8.6.0 is weakly typed; the tactics of cuBLAS and cuDNN are off, whose libraries are not carried.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

WORKSPACE_BYTES = 8 << 30
WARM_UPS = 30


class Driver:
    """The driver's calls that are needed; each raises RuntimeError with its name if it fails."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)
        self.stream = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(self.stream), 1)

    def __call__(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with {code}")

    def uploaded(self, array: np.ndarray) -> int:
        """The address of a copy on the device."""
        address = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(array.nbytes))
        self("cuMemcpyHtoD_v2", address, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes))
        return address.value

    def downloaded(self, array: np.ndarray, address: int) -> np.ndarray:
        """``array``, filled from the device."""
        into = array.ctypes.data_as(ctypes.c_void_p)
        self("cuMemcpyDtoH_v2", into, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))
        return array

    def elapsed_ms(self, call: Callable[[], None]) -> float:
        """Time on the device of what ``call`` enqueues."""
        events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in events:
            self("cuEventCreate", ctypes.byref(event), 0)
        self("cuEventRecord", events[0], self.stream)
        call()
        self("cuEventRecord", events[1], self.stream)
        self("cuStreamSynchronize", self.stream)
        elapsed = ctypes.c_float()
        self("cuEventElapsedTime", ctypes.byref(elapsed), *events)
        for event in events:
            self("cuEventDestroy_v2", event)
        return elapsed.value

    def captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """A call that replays what ``call`` enqueues, as a CUDA graph."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self("cuStreamBeginCapture_v2", self.stream, 1)
        call()
        self("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        return lambda: self("cuGraphLaunch", executable, self.stream)


class Engine:
    """An engine of fixed shapes with its inputs on the device."""

    def __init__(self, driver: Driver, logger: Any, path: str, inputs: dict[str, np.ndarray]) -> None:
        self.driver, runtime = driver, trt.Runtime(logger)
        self.runtime, self.engine = runtime, runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self.engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} refuses {path} on this GPU")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        for name in names:
            shape, dtype = self.engine.get_tensor_shape(name), trt.nptype(self.engine.get_tensor_dtype(name))
            is_input = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            array = np.ascontiguousarray(inputs[name], dtype) if is_input else np.empty(tuple(shape), dtype)
            address = driver.uploaded(array)
            self.context.set_tensor_address(name, address)
            if not is_input:
                self.output, self.address = array, address

    def __call__(self) -> None:
        if not self.context.execute_async_v3(self.driver.stream.value):
            raise RuntimeError("the engine could not be enqueued")


def build(graph: str, plan: str) -> dict[str, Any]:
    """Build an engine of a float32 graph of fixed shapes, half precision allowed."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    trt.init_libnvinfer_plugins(logger, "")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(graph):
        raise RuntimeError("; ".join(parser.get_error(number).desc() for number in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    sources = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in sources))
    config.set_flag(trt.BuilderFlag.FP16)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RuntimeError("the build failed: the log says why")
    Path(plan).write_bytes(bytes(serialized))
    return {"plan_bytes": len(bytes(serialized)), "tensorrt": trt.__version__}


def time(inputs: str, rounds: str, *plans: str) -> dict[str, Any]:
    """Both engines in turns; their outputs next to the plans (.npy)."""
    driver, logger = Driver(), trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    stored = dict(np.load(inputs))
    engines = {Path(plan).stem: Engine(driver, logger, plan, stored) for plan in plans}
    calls: dict[str, dict[str, Callable[[], None]]] = {name: {"stream": one} for name, one in engines.items()}
    for name, engine in engines.items():
        for _ in range(WARM_UPS):
            engine()
        driver("cuStreamSynchronize", driver.stream)
        calls[name]["graph"] = driver.captured(engine)
    found: dict[str, Any] = {name: {} for name in engines}
    for kind in ("stream", "graph"):
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(WARM_UPS + int(rounds)):
            for name in engines:
                elapsed = driver.elapsed_ms(calls[name][kind])
                taken[name] += [elapsed] if number >= WARM_UPS else []
        for name, times in taken.items():
            low, median, high = np.percentile(times, [10, 50, 90])
            found[name][kind] = {"median_ms": median, "p10_ms": low, "p90_ms": high, "rounds": len(times)}
    for plan, engine in zip(plans, engines.values(), strict=True):
        np.save(Path(plan).with_suffix(".npy"), driver.downloaded(engine.output, engine.address))
    return found


if __name__ == "__main__":
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"build": build, "time": time}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:]), default=float))
