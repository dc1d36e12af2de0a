"""Where an exported network spends its time: each part's share of what the runtime's own profiler says, interleaved.

The exporter writes into every node which module it came from. A runtime fuses nodes and takes some apart: a fused one
is known by a name it kept, and what has no name of the export counts to the part that runs after it. Those are mostly
the pieces of a norm, and a block begins with its norm. Where too much of the time cannot be placed for certain, as when
TensorRT fuses several parts into one node, nothing is said of any part.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from profiles.latency import WARM_UP_CALLS, clock_of, rounds_that_fit
from profiles.parts import compared
from profiles.settings import Rounds
from toolkit.runners.base import NodeTimes, Times

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter: the modules around a node, the outermost first
NETWORK = "denoiser."  # the network inside its float32 borders
BORDERS = "input and output"
LEAST_CERTAIN = 0.8  # of the time of a call
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


def by_part(times: Times, places: Mapping[str, str]) -> tuple[dict[str, float], float]:
    """Milliseconds of each part in one call, and the share of the time that is certain to be of its part.

    That is the time of the nodes whose names are all of one part, and of those without a name between two of one part.
    """
    owners = [_owners(name, places) for name, _ in times]
    before = _nearest(owners)
    after = _nearest(owners[::-1])[::-1]
    by_part: dict[str, float] = {}
    certain = 0.0
    for (_, ms), own, (earlier, later) in zip(times, owners, zip(before, after, strict=True), strict=True):
        part = own[0] if own else later
        by_part[part] = by_part.get(part, 0.0) + ms
        certain += ms if len(own) == 1 or (not own and earlier == later) else 0.0
    return by_part, certain / (sum(by_part.values()) or 1.0)


def _nearest(owners: list[list[str]]) -> list[str]:
    """For each node the part of the last named one up to it; the borders before the first."""
    nearest, part = [], BORDERS
    for own in owners:
        part = own[0] if own else part
        nearest.append(part)
    return nearest


def _owners(name: str, places: Mapping[str, str]) -> list[str]:
    """The parts of the names of the export in a node's name, in their order; fused ones hold several."""
    whole = _place(name, places)
    words = [whole] if whole else [_place(word, places) for word in re.findall(r"\w+(?:\.\w+)*", name)]
    return list(dict.fromkeys(part for part in words if part))


def _place(word: str, places: Mapping[str, str]) -> str | None:
    """The part of one name of the export, with or without what a runtime adds to it."""
    stems = (word, *(word.removesuffix(ending) for ending in ADDED if word.endswith(ending)))
    return next((places[stem] for stem in stems if stem in places), None)


def compare_node_parts(
    dense: NodeTimes,
    compressed: NodeTimes,
    files: Mapping[str, Path],
    inputs: Mapping[str, torch.Tensor],
    device: str,
    rounds: Rounds,
) -> dict[str, Any]:
    """What profiles.parts.compare_parts says, of two exported networks; ``files`` are their ONNX files.

    ``certain_share``: of the time, what is certain to be of its part; with less than LEAST_CERTAIN no part is named.
    """
    clock = clock_of(device)
    for _ in range(WARM_UP_CALLS):
        one_round_ms = clock(lambda: dense(**inputs)) + clock(lambda: compressed(**inputs))
    count = rounds_that_fit(one_round_ms, rounds)
    for _ in range(count):
        dense(**inputs)
        compressed(**inputs)
    both, certain = [], 1.0
    for which, nodes in (("dense", dense), ("compressed", compressed)):
        places = places_of(files[which])
        calls = [by_part(times, places) for times in nodes.close()[-count:]]
        both.append([parts for parts, _ in calls])
        certain = min(certain, float(np.median([share for _, share in calls])))
    if certain < LEAST_CERTAIN:
        return {"certain_share": certain, "rounds": count, "parts": {}, "no_faster": []}
    return {"certain_share": certain} | compared(list(zip(*both, strict=True)))
