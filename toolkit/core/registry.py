"""What a folder of modules offers: a new file is a new entry, and no list needs editing."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from toolkit.core.errors import unknown


def entries(package: ModuleType, attribute: str, key: str = "name") -> dict[str, Any]:
    """Every module's ``attribute`` in ``package``, by the value of its ``key``; it is an entry, or a tuple of them."""
    names = (f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__))
    attributes = (getattr(importlib.import_module(name), attribute, ()) for name in names)
    offered = (entry for found in attributes for entry in (found if isinstance(found, tuple) else (found,)))
    return {getattr(entry, key): entry for entry in offered}


def entry(package: ModuleType, attribute: str, kind: str, name: str, key: str = "name") -> Any:
    """The entry called ``name``; an unknown one is an error that lists the known."""
    known = entries(package, attribute, key)
    if name not in known:
        raise unknown(kind, name, list(known))
    return known[name]
