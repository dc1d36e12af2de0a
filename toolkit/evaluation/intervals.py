"""How sure a figure is: intervals from disjoint blocks of the images.

Drawing with replacement would bias a Frechet distance, since repeated images shrink the covariance; disjoint blocks are
honest samples, each at its own smaller count, which is said beside the interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
    independent, and in the difference the reference's part and the pair's common noise cancel. None where the blocks
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
    found = {name: asdict(interval(of_blocks)) for name, of_blocks in values.items()}
    return {"blocks": blocks, "count_per_block": count, "level": LEVEL} | found
