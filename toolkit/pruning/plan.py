"""The plan: the target configuration and which channels stay. With the dense weights it rebuilds the pruned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.adapters.blocks import KeptBlocks
from toolkit.adapters.space import Config
from toolkit.core.files import read_json, write_json
from toolkit.pruning.layout import Group, Layout, Segment, indices

SCHEMA_VERSION = 1
STRUCTURE = ("blocks", "groups", "tensors", "config")
"""The keys of plan.json that rebuild the model; the others are its facts, next to ``schema_version`` and ``class``."""


@dataclass(frozen=True)
class Plan:
    """What was requested and achieved, and the kept channels.

    ``facts`` is everything a reader needs to know (requested, achieved, widths, criterion, calibration); ``config``
    the stock configuration; ``layout`` says which groups each dimension of each tensor holds; ``kept`` which channels
    stay, and ``blocks`` which blocks of each stack.
    """

    facts: Mapping[str, Any]
    class_name: str
    config: Config
    layout: Layout
    kept: Mapping[str, np.ndarray]
    blocks: KeptBlocks = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON value."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.facts,
            "class": self.class_name,
            "config": self.config,
            "blocks": {name: list(stay) for name, stay in self.blocks.items()},
            "groups": {
                name: {**asdict(group), "kept": [int(i) for i in self.kept[name]]}
                for name, group in self.layout.groups.items()
            },
            "tensors": {
                tensor: {str(dim): [[s.group, s.size] for s in segments] for dim, segments in dims.items()}
                for tensor, dims in self.layout.tensors.items()
            },
        }

    def kept_indices(self, tensor: str, dim: int = 0) -> np.ndarray | None:
        """The indices of a dimension of a dense tensor that stay, in order; None for one that holds no channels."""
        segments = self.layout.tensors.get(tensor, {}).get(dim)
        return None if segments is None else indices(segments, self.kept)

    def write(self, path: Path) -> None:
        """Write plan.json."""
        write_json(path, self.to_json())


def without_structure(value: Mapping[str, Any]) -> dict[str, Any]:
    """What plan.json says for a reader: all but the long lists that rebuild the model."""
    return {key: entry for key, entry in value.items() if key not in STRUCTURE}


def read_plan(path: Path) -> Plan:
    """Read plan.json back."""
    value = read_json(path)
    groups = {name: Group(g["name"], g["size"], g["block"], g["unit"]) for name, g in value["groups"].items()}
    tensors = {
        tensor: {int(dim): tuple(Segment(group, size) for group, size in segments) for dim, segments in dims.items()}
        for tensor, dims in value["tensors"].items()
    }
    kept = {name: np.array(group["kept"], dtype=np.int64) for name, group in value["groups"].items()}
    blocks = {name: tuple(stay) for name, stay in value.get("blocks", {}).items()}
    facts = {key: entry for key, entry in without_structure(value).items() if key not in ("schema_version", "class")}
    return Plan(facts, value["class"], value["config"], Layout(groups, tensors), kept, blocks)
