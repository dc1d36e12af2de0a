"""The kernel distance between two sets of features."""

from __future__ import annotations

import numpy as np

ROWS = 1024  # of the kernel matrix at once


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features (N1, D) and (N2, D), kernel (x.y / D + 1)^3, in float64.

    The unbiased estimate, so it does not drift with the count and may fall a little below zero (Binkowski et al. 2018).
    """
    one, other = len(first), len(second)
    if min(one, other) < 2:
        raise ValueError("the unbiased estimate needs at least two images a side")
    within = (_kernel_sum(first, first) - _kernel_diagonal(first)) / (one * (one - 1))
    within_other = (_kernel_sum(second, second) - _kernel_diagonal(second)) / (other * (other - 1))
    return float(within + within_other - 2 * _kernel_sum(first, second) / (one * other))


def _kernel_sum(first: np.ndarray, second: np.ndarray) -> float:
    columns = second.astype(np.float64).T / second.shape[1]
    blocks = (first[start : start + ROWS].astype(np.float64) for start in range(0, len(first), ROWS))
    return float(sum(((rows @ columns + 1) ** 3).sum() for rows in blocks))


def _kernel_diagonal(features: np.ndarray) -> float:
    lengths = np.square(features, dtype=np.float64).mean(axis=1)
    return float(((lengths + 1) ** 3).sum())
