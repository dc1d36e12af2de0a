"""torch.onnx.export as tests see it: an architecture is traced once, and models that differ in weights share the graph.

No weight has a part in a trace, which is most of an export's time, and tests export the same few tiny models over and
over. The graph is kept as it is before it is optimised, where weights come in, and for the same weights as it is after:
what comes out has the nodes and the numbers of torch's own export, and other names for some constants.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from toolkit.core.files import replacing
from toolkit.models.build import plain_config

EXPORT = torch.onnx.export
"""Torch's own, for tests of the trace itself."""
PLACE = "DTK_TESTS_TRACES"
"""The variable that names the folder of the graphs; processes that a test forks inherit it."""


def share() -> None:
    """Let ``torch.onnx.export`` keep its graphs where ``PLACE`` says, for all processes that share the folder."""

    def export(module: Any, *args: Any, **options: Any) -> torch.onnx.ONNXProgram | None:
        key = None if args or not options.get("dynamo") else _key(module, options)
        if key is None:
            return EXPORT(module, *args, **options)
        state = module.state_dict()
        traced = lambda: _kept(key, lambda: EXPORT(module, **options, optimize=False))  # noqa: E731
        return _kept(f"{key}-{_numbers(state)}", lambda: _optimised(traced(), state))

    torch.onnx.export = export
    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # a second's work, and always the same


def _kept(key: str, make: Callable[[], torch.onnx.ONNXProgram | None]) -> torch.onnx.ONNXProgram:
    import onnx_ir

    path = Path(os.environ[PLACE]) / f"{key}.onnx"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who wants the same graph waits for it
        if not path.is_file():
            made = make()
            assert made is not None
            with replacing(path) as temporary:
                made.save(temporary)
    return torch.onnx.ONNXProgram(onnx_ir.load(path), None)


def _optimised(program: torch.onnx.ONNXProgram, state: dict[str, torch.Tensor]) -> torch.onnx.ONNXProgram:
    program.apply_weights(state)
    program.optimize()
    return program


def _key(module: torch.nn.Module, options: dict[str, Any]) -> str | None:
    """A hash of all that decides a trace; None if a part has no name."""
    facts = io.BytesIO()
    pickler = _Facts(facts)
    pickler.fast = True  # equal objects give equal bytes, whether or not they are one
    pickler.weights = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    try:
        pickler.dump((module, options))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return hashlib.sha256(facts.getvalue()).hexdigest()


def _numbers(state: dict[str, torch.Tensor]) -> str:
    """A hash of the weights, whose names, types and shapes the trace's key has."""
    return hashlib.sha256(b"".join(map(_bytes, state.values()))).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    numbers: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return numbers


class _Facts(pickle.Pickler):
    """Writes a weight as its type and shape, any other tensor with its numbers."""

    weights: set[int]

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), None if id(value) in self.weights else _bytes(value)
        if type(value).__name__ == "FrozenDict":  # diffusers' config, which also says what folder it was read from
            return plain_config(value)
        if isinstance(value, str) and value.startswith("/"):  # as transformers' says
            return "a path"
        if isinstance(value, OrderedDict) and all(isinstance(key, int) for key in value):  # hooks, in order of number
            return list(value.values())
        if isinstance(value, FunctionType) and value.__closure__:
            return value.__module__, value.__qualname__, [cell.cell_contents for cell in value.__closure__]
        return str(value) if isinstance(value, torch.export.Dim) else None
