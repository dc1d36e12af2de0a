"""torch.onnx.export as tests see it: an architecture is traced once, and models that differ in weights share the graph.

No weight has a part in a trace, which is most of an export's time, and tests export the same few tiny models over and
over. The graph is kept as it is before it is optimised, where weights come in: what comes out has the nodes and the
numbers of torch's own export, and other names for some constants.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from toolkit.core.files import replacing
from toolkit.models.folder import plain_config

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
        import onnx_ir

        path = Path(os.environ[PLACE]) / f"{key}.onnx"
        if not path.is_file():
            traced = EXPORT(module, **options, optimize=False)
            assert traced is not None
            with replacing(path) as temporary:
                traced.save(temporary)
        program = torch.onnx.ONNXProgram(onnx_ir.load(path), None)
        program.apply_weights(module.state_dict())
        program.optimize()
        return program

    torch.onnx.export = export


def _key(module: torch.nn.Module, options: dict[str, Any]) -> str | None:
    """A hash of all that decides a trace; None if a part has no name, such as a hook that is a closure."""
    facts = io.BytesIO()
    pickler = _Facts(facts)
    pickler.fast = True  # equal objects give equal bytes, whether or not they are one
    pickler.weights = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    try:
        pickler.dump((module, options))
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(facts.getvalue()).hexdigest()


class _Facts(pickle.Pickler):
    """Writes a weight as its type and shape, any other tensor with its numbers."""

    weights: set[int]

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return str(value.dtype), tuple(value.shape), None if id(value) in self.weights else numbers
        if type(value).__name__ == "FrozenDict":  # diffusers' config, which also says what folder it was read from
            return plain_config(value)
        return str(value) if isinstance(value, torch.export.Dim) else None
