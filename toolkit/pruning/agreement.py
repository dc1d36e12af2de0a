"""How far two scorings agree: on the ranks of channels, and on which of them stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import spearmanr

from toolkit.pruning.selection import Scores

Kept = Mapping[str, np.ndarray]


def rank_correlation(one: Scores, other: Scores) -> float:
    """Spearman's rank correlation of the channels' scores, the mean over the groups with more than one score."""
    ranked = [name for name in one if np.ptp(one[name]) > 0 and np.ptp(other[name]) > 0]
    return float(np.mean([spearmanr(one[name], other[name]).statistic for name in ranked])) if ranked else 1.0


def overlap(one: Kept, other: Kept, sizes: Mapping[str, int]) -> float:
    """The share of kept channels that two choices have in common, corrected for chance: 1 equal, 0 as chance has it.

    (common - expected) / (kept - expected), each summed over the groups that lose channels; two random choices of k
    among n have k^2 / n in common (the correction of Cohen's kappa, 1960). 1 where no group loses a channel.
    """
    cut = [name for name, size in sizes.items() if len(one[name]) < size]
    common = sum(len(np.intersect1d(one[name], other[name])) for name in cut)
    kept = sum(len(one[name]) for name in cut)
    expected = sum(len(one[name]) ** 2 / sizes[name] for name in cut)
    return float((common - expected) / (kept - expected)) if kept > expected else 1.0
