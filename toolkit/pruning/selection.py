"""Which channels of each group stay, given their scores and how many may; and how far two choices agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from toolkit.core.errors import DtkError
from toolkit.pruning.layout import Group, Kept, Layout, norm_blocks

Scores = Mapping[str, np.ndarray]
"""group -> one score per channel, float64 (size,)"""


def bind(layout: Layout, norms: Mapping[str, int], policy: str) -> Layout:
    """The layout bound by a group policy.

    ``within``: channels are ranked inside each norm group, so that every norm keeps its partition. ``whole``: whole
    norm groups go, and the model's number of norm groups is scaled with them.
    """
    if policy == "within":
        return norm_blocks(layout, norms)
    read = {s.group for norm in norms for s in layout.tensors.get(norm, {}).get(0, ())}
    count = next(iter(norms.values()))
    return layout.with_groups(
        {
            name: replace(group, block=group.size, unit=group.size // count) if name in read else group
            for name, group in layout.groups.items()
        }
    )


def keep(group: Group, scores: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` kept channels of a group, ascending: the best of each block, equally many in each.

    Where the group's blocks do not divide evenly, neighbouring blocks are ranked together. Ties go to the lower index.
    """
    if count in (0, group.size):  # nothing is left of a group whose block is removed
        return np.arange(count)
    if count < group.unit or count % group.unit:
        raise DtkError(
            f"Cannot keep {count} of the {group.size} channels of {group.name}.",
            expected=f"a multiple of {group.unit}, and at least one",
        )
    units = scores.reshape(-1, group.unit).sum(1)
    wanted = count // group.unit
    block = math.lcm(max(group.block // group.unit, 1), len(units) // math.gcd(len(units), wanted))
    per_block = wanted * block // len(units)
    ranked = np.argsort(-units.reshape(-1, block), axis=1, kind="stable")[:, :per_block]
    chosen = np.sort((ranked + np.arange(0, len(units), block)[:, None]).ravel())
    kept: np.ndarray = (chosen[:, None] * group.unit + np.arange(group.unit)).ravel()
    return kept


def keep_all(
    layout: Layout, scores: Scores, sizes: Mapping[str, int], successors: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The kept channels of every group, by name; ``sizes`` says how many of each.

    ``successors`` maps a group whose block is removed to the one that is read instead: the scores of both decide, and
    both keep the same.
    """
    groups, summed = dict(layout.groups), dict(scores)
    for removed, heir in successors.items():
        groups[heir] = replace(groups[heir], block=math.gcd(groups[heir].block, groups[removed].block))
        summed[heir] = summed[heir] + summed[removed]
    kept = {name: keep(group, summed[name], sizes[name]) for name, group in groups.items()}
    return kept | {removed: kept[heir] for removed, heir in successors.items()}


def retained(scores: Scores, kept: Mapping[str, np.ndarray]) -> float:
    """The mean over all groups of the share of score that is kept.

    Raw sums of different groups do not compare (their scores differ by orders of magnitude), shares do.
    """
    sums = {name: float(scores[name].sum()) for name in kept}
    shares = [float(scores[name][indices].sum()) / sums[name] if sums[name] else 1.0 for name, indices in kept.items()]
    return float(np.mean(shares)) if shares else 1.0


def rank_correlation(one: Scores, other: Scores) -> float:
    """Spearman's rank correlation of the channels' scores, the mean over the groups with more than one score."""
    ranked = [name for name in one if np.ptp(one[name]) > 0 and np.ptp(other[name]) > 0]
    return float(np.mean([spearmanr(one[name], other[name]).statistic for name in ranked])) if ranked else 1.0


def kept_overlap(one: Kept, other: Kept, sizes: Mapping[str, int]) -> float:
    """The share of kept channels that two choices have in common, corrected for chance: 1 is equal, 0 is chance.

    (common - expected) / (kept - expected), each summed over the groups that lose channels; two random choices of k
    among n have k^2 / n in common (the correction of Cohen's kappa, 1960). 1 if no group loses a channel.
    """
    cut = [name for name, size in sizes.items() if len(one[name]) < size]
    common = sum(len(np.intersect1d(one[name], other[name])) for name in cut)
    kept = sum(len(one[name]) for name in cut)
    expected = sum(len(one[name]) ** 2 / sizes[name] for name in cut)
    return float((common - expected) / (kept - expected)) if kept > expected else 1.0
