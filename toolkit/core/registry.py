"""What a folder of modules offers: a new file is a new entry, and no list needs editing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from toolkit.core.errors import DtkError, unknown


def entries(package: ModuleType, attribute: str, kind: type, key: str = "name") -> dict[str, Any]:
    """Every module's ``attribute`` in ``package``, by the value of its ``key``; it is an entry, or a tuple of them.

    Raises DtkError for an entry that lacks something of ``kind``, a protocol or a class.
    """
    offered = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found = getattr(module, attribute, ())
        for one in found if isinstance(found, tuple) else (found,):
            _check(one, kind, f"{attribute} of {module.__file__}")
            offered[getattr(one, key)] = one
    return offered


def _check(one: object, kind: type, where: str) -> None:
    wanted = [*kind.__annotations__, *(name for name in vars(kind) if name == "__call__" or not name.startswith("_"))]
    missing = [name for name in wanted if not hasattr(one, name)]
    if missing:
        described = f"all that {kind.__name__} of {kind.__module__} has"
        raise DtkError(f"{where} is incomplete.", found=f"no {', '.join(missing)}", expected=described)


def entry(known: Mapping[str, Any], kind: str, name: str) -> Any:
    """The entry called ``name``; an unknown one is an error that lists the known."""
    if name not in known:
        raise unknown(kind, name, list(known))
    return known[name]
