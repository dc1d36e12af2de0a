"""Where an exported network spends its time: each part's share of what the runtime's own profiler says, interleaved.

The exporter writes into every node which module it came from. A runtime fuses nodes and takes some apart: a fused one
is known by a name it kept, and what has no name of the export counts to the part that runs after it. Those are mostly
the pieces of a norm, and a block begins with its norm.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from profiles.latency import WARM_UP_CALLS, clock_of, rounds_that_fit
from profiles.parts import compared
from profiles.settings import Rounds
from toolkit.runners.base import NodeTimes, Times

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter: the modules around a node, the outermost first
NETWORK = "denoiser."  # the network inside its float32 borders
BORDERS = "input and output"
ADDED = ("_nchwc",)  # endings that ONNX Runtime gives to nodes in another layout


def places_of(onnx: Path) -> dict[str, str]:
    """The part of the network, such as down_blocks.0, of every node's and value's name in an exported file."""
    import onnx as onnx_package

    model = onnx_package.load(onnx, load_external_data=False)
    part_of: dict[str, str] = {}
    for node in model.graph.node:
        texts = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
        scopes = ast.literal_eval(texts[0]) if texts else []
        inside = [scope.removeprefix(NETWORK) for scope in scopes if scope.startswith(NETWORK)]
        part = inside[0] if inside else BORDERS
        part_of |= dict.fromkeys((node.name, *node.output), part)
    return part_of


def by_part(times: Times, places: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds of each part in one call."""
    by_part: dict[str, float] = {}
    part = BORDERS
    for name, ms in reversed(times):
        part = _place(name, places) or part
        by_part[part] = by_part.get(part, 0.0) + ms
    return by_part


def _place(name: str, places: Mapping[str, str]) -> str | None:
    """The part of the first name of the export in a node's name; fused ones hold several."""
    for word in (name, *re.findall(r"\w+(?:\.\w+)*", name)):
        for ending in ("", *ADDED):
            if (known := places.get(word.removesuffix(ending) if ending else word)) is not None:
                return known
    return None


def compare_node_parts(
    dense: NodeTimes,
    compressed: NodeTimes,
    files: Mapping[str, Path],
    inputs: Mapping[str, torch.Tensor],
    device: str,
    rounds: Rounds,
) -> dict[str, Any]:
    """What profiles.parts.compare_parts says, of two exported networks; ``files`` are their ONNX files."""
    clock = clock_of(device)
    for _ in range(WARM_UP_CALLS):
        one_round_ms = clock(lambda: dense(**inputs)) + clock(lambda: compressed(**inputs))
    count = rounds_that_fit(one_round_ms, rounds)
    for _ in range(count):
        dense(**inputs)
        compressed(**inputs)
    both = []
    for which, nodes in (("dense", dense), ("compressed", compressed)):
        places = places_of(files[which])
        both.append([by_part(times, places) for times in nodes.close()[-count:]])
    return compared(list(zip(*both, strict=True)))
