"""What paired times say of how much faster something is, and no more than that.

The speed-up is the median of the paired ratios, with an interval from their order statistics, which assumes nothing
about how the times are distributed (David & Nagaraja, "Order Statistics", 7.1), but that rounds are independent of each
other: what changes slowly meets both times of a round and cancels; what favours one of them for several rounds makes
the interval narrower than it should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import quantile_test

CONFIDENCE = 0.95
WIDEST_INTERVAL = 0.10  # of the speed-up, to each side: a wider one says nothing about how much faster
SAME = 0.02  # an interval within 1 +- this is no difference: two sessions of one file were measured 1 % apart
FAR_OUT = 3.0  # interquartile ranges beyond the quartiles (Tukey 1977): an outlier that is shown, and never dropped


@dataclass(frozen=True)
class Speedup:
    """How many times faster: the median paired ratio dense / compressed, its interval, and what may be said of it.

    ``verdict`` is "no difference" if the whole interval lies close to 1, else "faster" or "slower" if it excludes
    1, and "inconclusive" if the run was too noisy to tell.
    """

    value: float
    low: float
    high: float
    confidence: float
    verdict: str


def speedup(dense_ms: np.ndarray, compressed_ms: np.ndarray) -> Speedup:
    """The speed-up of paired times. Six rounds are the fewest that give an interval at 95 %."""
    ratios = dense_ms / compressed_ms
    value = float(np.median(ratios))
    interval = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(CONFIDENCE)
    low, high = float(interval.low), float(interval.high)
    return Speedup(value, low, high, CONFIDENCE, _verdict(value, low, high))


def _verdict(value: float, low: float, high: float) -> str:
    if not max(high - value, value - low) <= WIDEST_INTERVAL * value:
        return "inconclusive"
    if low >= 1 - SAME and high <= 1 + SAME:
        return "no difference"
    if low > 1 or high < 1:
        return "faster" if low > 1 else "slower"
    return "inconclusive"


def summary(times_ms: np.ndarray, batch: int) -> dict[str, Any]:
    """Percentiles in ms, the outliers among the times, and the images per second that the median makes."""
    percentiles = {f"p{p}_ms": float(np.percentile(times_ms, p)) for p in (50, 90, 95, 99)}
    images = {"images_per_s": batch / percentiles["p50_ms"] * 1e3}
    return percentiles | images | {"outliers_ms": outliers(times_ms)}


def outliers(times_ms: np.ndarray) -> list[float]:
    """The times that lie far out, by size. They stay in every percentile."""
    low, high = np.percentile(times_ms, (25, 75))
    reach = FAR_OUT * (high - low)
    return sorted(float(one) for one in times_ms if not low - reach <= one <= high + reach)
