"""Which timesteps a scoring visits, and when a threshold stops it, without a gradient at every one of them.

Gradients of neighbouring timesteps hardly differ if images and noise are the same, so their sum over 0..stop-1 is
a sum over strata, each represented by its middle (the midpoint rule). Finding the stop takes only forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

APART = 16  # timesteps between those whose loss is looked at before the crossing is narrowed down


@dataclass(frozen=True)
class Visit:
    """A timestep that stands for those from ``start`` to ``start + weight - 1``."""

    t: int
    start: int
    weight: int


def stops(loss: Callable[[int], float], steps: int, thresholds: Iterable[float]) -> dict[float, int]:
    """For each threshold the first t with loss(t) < threshold x the running maximum; ``steps`` if there is none.

    Looks at every ``APART``-th timestep until one lies below and bisects between it and the one before. That is the
    first such t wherever loss over running maximum falls; a dip that begins and ends between two looks is passed over.
    """
    known: dict[int, float] = {}

    def below(t: int, threshold: float) -> bool:
        if t not in known:
            known[t] = loss(t)
        return known[t] < threshold * max(value for at, value in known.items() if at <= t)

    def stop(threshold: float) -> int:
        if threshold == 0:  # no squared error is below zero
            return steps
        high = next((t for t in range(0, steps, APART) if below(t, threshold)), None)
        if high is None:
            high = steps - 1
            if not below(high, threshold):
                return steps
        low = max(0, (high - 1) // APART * APART)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if below(middle, threshold) else (middle, high)
        return high

    return {threshold: stop(threshold) for threshold in sorted(set(thresholds), reverse=True)}


def visits(ends: Iterable[int], count: int) -> list[Visit]:
    """The middles of about ``count`` even strata of 0..max(ends)-1, no stratum straddling one of ``ends``."""
    last = max(ends)
    edges = np.linspace(0, last, min(count, last) + 1).round().astype(int)
    cuts = sorted({*edges.tolist(), *ends})
    return [Visit((start + end - 1) // 2, start, end - start) for start, end in pairwise(cuts)]
