"""The known criteria and adapters, by name."""

from __future__ import annotations

from toolkit.pruning import adapters, criteria
from toolkit.pruning.adapters.base import Adapter
from toolkit.pruning.criteria.base import Criterion
from toolkit.registry import entries, entry


def known_criteria() -> dict[str, Criterion]:
    """Every criterion, by name."""
    return entries(criteria, "CRITERION")


def criterion(name: str) -> Criterion:
    """The criterion called ``name``; an unknown one is refused with the list of known ones."""
    found: Criterion = entry(criteria, "CRITERION", "criterion", name)
    return found


def known_adapters() -> dict[str, Adapter]:
    """Every adapter, by the name of its diffusers class."""
    return entries(adapters, "ADAPTER", key="class_name")


def adapter(class_name: str) -> Adapter:
    """The adapter of a diffusers class; an unknown one is refused with the list of known ones."""
    found: Adapter = entry(adapters, "ADAPTER", "model class", class_name, key="class_name")
    return found
