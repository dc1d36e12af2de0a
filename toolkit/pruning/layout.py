"""Which channels each dimension of each tensor holds: the coupled groups of a network.

A *group* is a set of channels that must stay or go together wherever they appear. A dimension of a tensor is a
concatenation of *segments*, each one whole group: a plain layer has one, a layer that reads a skip concatenation has
two, a GEGLU projection has its group twice (value and gate). All that pruning does follows from this table: scores are
summed over it, choices are made by group, tensors are sliced along it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

FIXED = ""  # the group of channels that never go: images, context, the time embedding


@dataclass(frozen=True)
class Segment:
    """``size`` consecutive entries of a dimension, holding the channels of ``group`` in order."""

    group: str
    size: int


Dimension = tuple[Segment, ...]


@dataclass(frozen=True)
class Group:
    """Coupled channels, and what binds the choice among them.

    ``block``: channels are ranked inside consecutive blocks of this size, equally many kept in each, so that norms and
    attention heads keep their partition. ``unit``: this many consecutive channels stay or go as one.
    """

    name: str
    size: int
    block: int
    unit: int = 1


@dataclass(frozen=True)
class Layout:
    """The groups of a network, and for every parameter its dimensions that hold them."""

    groups: Mapping[str, Group]
    tensors: Mapping[str, Mapping[int, Dimension]]

    def dimensions(self) -> Iterator[tuple[str, int, Dimension]]:
        """Every (parameter, dimension, segments)."""
        for tensor, dims in self.tensors.items():
            for dim, segments in dims.items():
                yield tensor, dim, segments

    def with_groups(self, groups: Mapping[str, Group]) -> Layout:
        """The same table with other bindings of the choice."""
        return replace(self, groups=groups)


def offsets(segments: Dimension) -> Iterator[tuple[int, Segment]]:
    """Each segment with the index where it starts."""
    start = 0
    for segment in segments:
        yield start, segment
        start += segment.size


Kept = Mapping[str, np.ndarray]
"""group -> the indices of its channels that stay, ascending"""


def indices(segments: Dimension, kept: Kept) -> np.ndarray:
    """The indices of a dimension that stay, ascending within each segment."""
    parts = [
        np.arange(segment.size) + offset if segment.group == FIXED else kept[segment.group] + offset
        for offset, segment in offsets(segments)
    ]
    return np.concatenate(parts)


def norm_blocks(layout: Layout, norms: Mapping[str, int]) -> Layout:
    """Bind every group to the partitions of the norms that read it.

    ``norms`` maps a norm's weight to its number of groups. The block of a group becomes the greatest common divisor of
    the norms' group sizes and of the offsets at which they read it: such a block never straddles a norm's boundary.
    """
    groups = dict(layout.groups)
    for tensor, count in norms.items():
        segments = layout.tensors.get(tensor, {}).get(0, ())
        size = sum(segment.size for segment in segments) // count
        for offset, segment in offsets(segments):
            if segment.group != FIXED:
                group = groups[segment.group]
                groups[group.name] = replace(group, block=math.gcd(group.block, size, offset))
    return layout.with_groups(groups)
