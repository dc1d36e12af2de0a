"""Distances between two sets of features, and how sure each is: intervals from disjoint blocks of the images.

Drawing with replacement would bias a Frechet distance, since repeated images shrink the covariance; disjoint blocks are
honest samples, each at its own smaller count, which is stated next to the interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features (N1, D) and (N2, D), in float64 (Heusel et al. 2017).

    The covariances are unbiased. With centred features A and B scaled so that S1 = A'A and S2 = B'B, the last trace is
    the sum of the singular values of A B', so no matrix root is taken and fewer images than features are no trouble.
    The distance itself is biased upwards by about 1/N: compare only distances of equal counts.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs at least two images per side")
    mean_gap = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    left, right = _root_of_covariance(first), _root_of_covariance(second)
    overlap = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(mean_gap @ mean_gap + (left**2).sum() + (right**2).sum() - 2 * overlap)


def _root_of_covariance(features: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with R'R the unbiased covariance."""
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    centred /= np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(features) > features.shape[1] else centred


ROWS = 1024  # of the kernel matrix at once


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features (N1, D) and (N2, D), kernel (x.y / D + 1)^3, in float64.

    The unbiased estimate, so it does not drift with the count and may fall a little below zero (Binkowski et al. 2018).
    """
    one, other = len(first), len(second)
    if min(one, other) < 2:
        raise ValueError("the unbiased estimate needs at least two images per side")
    within = fellow_sums(first).sum() / (one * (one - 1))
    within_other = fellow_sums(second).sum() / (other * (other - 1))
    return float(within + within_other - 2 * kernel_sums(first, second)[0].sum() / (one * other))


def kernel_sums(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernel of features (N1, D) and (N2, D) summed over the second, (N1,), and over the first, (N2,)."""
    columns = second.astype(np.float64).T / second.shape[1]
    over_second, over_first = [], np.zeros(len(second))
    for start in range(0, len(first), ROWS):
        block = first[start : start + ROWS].astype(np.float64) @ columns + 1
        block *= block * block  # several times as fast as a power
        over_second.append(block.sum(axis=1))
        over_first += block.sum(axis=0)
    return np.concatenate(over_second), over_first


def fellow_sums(features: np.ndarray) -> np.ndarray:
    """The kernel of each of the features (N, D) with all others of its set, summed: (N,)."""
    lengths = np.square(features, dtype=np.float64).mean(axis=1)
    return kernel_sums(features, features)[0] - (lengths + 1) ** 3


LEVEL = 0.95
BLOCKS = 5
LEAST = 20  # images in a block

Distance = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Interval:
    """The mean of the blocks' values and Student's interval for it."""

    mean: float
    low: float
    high: float


def interval(values: np.ndarray) -> Interval:
    """Student's interval for the mean of independent values (K,), K at least 2."""
    from scipy.stats import t as student

    mean = float(np.mean(values))
    reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - reach, mean + reach)


def block_intervals(
    distance: Distance, sets: dict[str, np.ndarray], reference: np.ndarray, blocks: int = BLOCKS
) -> dict[str, Any] | None:
    """Intervals of each set's distance to the reference, and of the paired difference dense minus compressed.

    All features (N, D). Block b of every set is compared with block b of the reference, so the values of the blocks are
    independent, and in the difference the reference's part and the pair's common noise cancel. None if the blocks
    would be too small.
    """
    count = len(reference) // blocks
    if count < LEAST:
        return None
    parts = [slice(number * count, (number + 1) * count) for number in range(blocks)]
    values = {
        name: np.array([distance(features[part], reference[part]) for part in parts]) for name, features in sets.items()
    }
    values["dense_minus_compressed"] = values["dense"] - values["compressed"]
    intervals = {name: asdict(interval(of_blocks)) for name, of_blocks in values.items()}
    return {"blocks": blocks, "count_per_block": count, "level": LEVEL} | intervals
