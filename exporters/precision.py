"""Proof of an engine's precision: the types of its graph, and the weights that lie in its plan.

A graph in float32 silently gives a float32 engine, whatever was meant. So after a build it is measured how many of the
weight bytes of convolutions and matrix products are in half precision: in the parsed, typed network, whose types are
the engine's; in the plan itself, by looking for the weights in both precisions (builders reorder weights, but along
channels they stay together; a few are folded into others and are found in neither); and, if a GPU can load the plan,
by what TensorRT's inspector says of its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from exporters.settings import DtypeName
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator
from toolkit.runners.tensorrt_api import TensorRT

LEAST_SHARE = 0.95
LEAST_FOUND = 0.5  # of the weight bytes: fewer found in the plan prove nothing
TENSORS, VECTORS = 12, 6  # looked for: the largest tensors, that many places in each; each look scans the whole plan
INSPECTED = {"Half": 2, "BFloat16": 2, "BF16": 2, "FP16": 2, "Float": 4, "FP32": 4}  # bytes by the inspector's names
VECTOR_BYTES = 16  # channels that every layout keeps side by side


def prove(
    api: TensorRT,
    network: Any,
    graph: Path,
    plan: bytes,
    dtype: DtypeName,
    kept_share: float = 0.0,
    layers: Sequence[Any] = (),
) -> dict[str, Any]:
    """The shares of half precision in ``network`` and ``plan``; ``dtype`` is what ``graph``, the ONNX file, should be.

    ``kept_share`` of the parameters were kept in float32 on request. ``layers`` is what TensorRT's inspector says, none
    if it could not be asked. Raises DtkError if fp16 or bf16 was requested and less than 95 % of the weight bytes of
    the others are in it.
    """
    least = LEAST_SHARE * half_bytes_share(kept_share)
    typed = typed_share(api, network)
    stored, covered = stored_share(graph, plan)
    proof = {"typed_share": typed, "stored_share": stored, "stored_found": covered}
    shares = [typed, *([stored] if covered >= LEAST_FOUND else [])]
    if layers:
        inspected, described = inspected_share(layers, graph)
        proof |= {"inspected_share": inspected, "inspected_told": described}
        shares += [inspected] if described >= LEAST_FOUND else []
    if dtype != "fp32" and min(shares) < least:
        raise DtkError(
            f"The engine of {graph.name} does not compute in {dtype}.",
            found=f"{100 * typed:.1f} % of the weight bytes in its graph and {100 * stored:.1f} % in its plan"
            + (f", {100 * proof['inspected_share']:.1f} % by its inspector" if "inspected_share" in proof else ""),
            expected=f"at least {100 * least:.3g} %",
            do=f"export again with --dtype {dtype}: a strongly typed builder takes the types of the graph",
        )
    return proof


def half_bytes_share(kept_share: float) -> float:
    """The share of the bytes in half precision if ``kept_share`` of the parameters have twice the size."""
    return (1 - kept_share) / (1 + kept_share)


def typed_share(api: TensorRT, network: Any) -> float:
    """Share of half precision in the weight bytes of the convolutions and matrix products of a parsed network."""
    trt = api.module
    half = (trt.DataType.HALF, trt.DataType.BF16)
    weights = list(_weights(api, network))
    total = sum(count for _, count in weights)
    return sum(count for dtype, count in weights if dtype in half) / total if total else 0.0


def _weights(api: TensorRT, network: Any) -> Iterator[tuple[Any, int]]:
    """(type, bytes) of every constant operand; the operands of one layer have one type in a typed network."""
    trt = api.module
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    makers = {layer.get_output(n).name: layer for layer in layers for n in range(layer.num_outputs)}

    @cache
    def constant(name: str) -> bool:
        layer = makers.get(name)
        operands = [] if layer is None else [layer.get_input(n) for n in range(layer.num_inputs)]
        return layer is not None and all(operand is None or constant(operand.name) for operand in operands)

    for layer in layers:
        if layer.type == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer
            yield layer.get_input(0).dtype, layer.kernel.size * layer.get_input(0).dtype.itemsize
        elif layer.type == trt.LayerType.MATRIX_MULTIPLY:
            for operand in (layer.get_input(0), layer.get_input(1)):
                if constant(operand.name) and min(operand.shape) > 0:
                    yield operand.dtype, int(np.prod(operand.shape)) * operand.dtype.itemsize


def inspected_share(layers: Sequence[Any], graph: Path) -> tuple[float, float]:
    """Of the weight bytes that the inspector's ``layers`` name, the share in half; and how much of ``graph`` they tell.

    Layers that the builder fused by its own compiler name no weights.
    """
    weights = [layer["Weights"] for layer in layers if isinstance(layer, dict) and "Weights" in layer]
    size = dict.fromkeys({1, *INSPECTED.values()}, 0)
    for weight in weights:
        size[INSPECTED.get(weight["Type"], 1)] += weight["Count"]
    total = sum(array.size for array in _arrays(graph))
    told_bytes = sum(bytes_each * count for bytes_each, count in size.items())
    return (2 * size[2] / told_bytes if told_bytes else 0.0), (sum(size.values()) / total if total else 0.0)


def _arrays(graph: Path) -> list[np.ndarray]:
    """The weights of an ONNX file: matrices and kernels, the largest first."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer]
    arrays = [array for array in arrays if array.dtype.kind != "i" and array.ndim >= 2 and array.size >= 256]
    return sorted(arrays, key=lambda array: -array.size)


def stored_share(graph: Path, plan: bytes) -> tuple[float, float]:
    """Of the weight bytes of an ONNX file found in a plan, the share in half precision; and how many were found."""
    largest = _arrays(graph)[:TENSORS]
    size = {2: 0, 4: 0}
    for number, array in enumerate(largest):
        for kind in {array.dtype, np.dtype(np.float16), np.dtype(np.float32)}:
            if _lies_in(plan, array.astype(kind), number):
                size[kind.itemsize] += array.size
    total = sum(array.size for array in largest)
    covered = size[2] + size[4]
    return (size[2] / covered if covered else 0.0), (covered / total if total else 0.0)


def _lies_in(plan: bytes, array: np.ndarray, number: int) -> bool:
    """Whether most of some vectors along one of the channel dimensions are in the plan."""
    draw = generator("precision", 0, number)
    length = VECTOR_BYTES // array.dtype.itemsize
    for axis in (0, 1):
        vectors = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
        rows = draw.integers(len(vectors), size=VECTORS)
        starts = draw.integers(max(array.shape[axis] // length, 1), size=VECTORS) * length
        hits = sum(
            vectors[row, start : start + length].tobytes() in plan for row, start in zip(rows, starts, strict=True)
        )
        if hits > VECTORS // 2:
            return True
    return False
