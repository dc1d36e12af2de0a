"""Protocol buffers' text format, as far as Triton's model configuration uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


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
