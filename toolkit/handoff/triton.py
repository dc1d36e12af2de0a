"""Triton's model configuration, from what the step graph takes and gives, and the text format it is written in.

Fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph


class Enum(str):
    """A value that is written without quotes."""


def dumps(message: Mapping[str, Any]) -> str:
    """``message`` as text: mappings are messages, lists of mappings repeated messages, other lists repeated scalars."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _message(name, value, indent)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for entry in value:
                yield from _message(name, entry, indent)
        elif isinstance(value, list):
            yield f"{indent}{name}: [{', '.join(map(_scalar, value))}]"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _message(name: str, value: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}{name} {{"
    yield from _lines(value, f"{indent}  ")
    yield f"{indent}}}"


def _scalar(value: object) -> str:
    return str(value) if isinstance(value, Enum) else json.dumps(value)


PNG_CHANNELS = (1, 3)
MICROSECONDS = 1000  # in a millisecond


def io_schema(graph: StepGraph) -> dict[str, list[dict[str, Any]]]:
    """The server's inputs and outputs, one row per image: name, Triton's type, shape of a row, whether it is needed."""
    inputs = [_tensor("SEED", "UINT64", [1]), _tensor("STEPS", "INT32", [1], optional=True)]
    if graph.guided:
        inputs.append(_tensor("GUIDANCE", "FP32", [1], optional=True))
    if graph.tokenizers:
        inputs.append(_tensor("PROMPT", "STRING", [1]))
    elif graph.classes is not None:
        inputs.append(_tensor("CLASS", "INT64", [1]))
    outputs = [_tensor("IMAGE", "FP32", list(graph.image))]
    if graph.image[0] in PNG_CHANNELS:
        outputs.append(_tensor("PNG", "STRING", [1]))
    return {"inputs": inputs, "outputs": outputs}


def _tensor(name: str, dtype: str, dims: list[int], optional: bool = False) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": dims} | ({"optional": True} if optional else {})


def configuration(graph: StepGraph, settings: HandoffSettings, max_batch: int) -> dict[str, Any]:
    """The contents of config.pbtxt."""
    schema = io_schema(graph)
    message = {
        "name": settings.name,
        "backend": "python",
        "max_batch_size": max_batch,
        "input": [_field(tensor) for tensor in schema["inputs"]],
        "output": [_field(tensor) for tensor in schema["outputs"]],
        "instance_group": [{"count": settings.instances, "kind": Enum(f"KIND_{settings.device.upper()}")}],
        "version_policy": {"latest": {"num_versions": 1}},
        "parameters": [{"key": "threads", "value": {"string_value": str(settings.threads)}}],
        "model_warmup": [_warm_up(schema["inputs"], count) for count in sorted({1, max_batch})],
    }
    return message | ({"dynamic_batching": _batching(settings, max_batch)} if settings.dynamic_batching else {})


def _field(tensor: dict[str, Any]) -> dict[str, Any]:
    optional = {"optional": True} if tensor.get("optional") else {}
    return {"name": tensor["name"], "data_type": Enum(f"TYPE_{tensor['dtype']}"), "dims": tensor["dims"]} | optional


def _batching(settings: HandoffSettings, max_batch: int) -> dict[str, Any]:
    return {
        "preferred_batch_size": [max_batch],
        "max_queue_delay_microseconds": int(settings.queue_delay_ms * MICROSECONDS),
        "default_queue_policy": {
            "timeout_action": Enum("REJECT"),
            "default_timeout_microseconds": settings.queue_timeout_ms * MICROSECONDS,
            "allow_timeout_override": True,
            "max_queue_size": settings.max_queue_size,
        },
    }


def _warm_up(inputs: list[dict[str, Any]], count: int) -> dict[str, Any]:
    needed = [tensor for tensor in inputs if not tensor.get("optional")]
    return {
        "name": f"batch_{count}",
        "batch_size": count,
        "inputs": [
            {
                "key": tensor["name"],
                "value": {"data_type": Enum(f"TYPE_{tensor['dtype']}"), "dims": tensor["dims"], "zero_data": True},
            }
            for tensor in needed
        ],
    }
