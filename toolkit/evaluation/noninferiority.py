"""Whether one model's samples are as good as another's: a non-inferiority test of their excess over real images.

The excess is the kernel distance to real images. Its estimate is unbiased, and zero for real images, so no floor is
subtracted and any number of images will do. (A Frechet distance of 1,000 images is mostly bias, and the bias differs
between two models by as much as a margin allows.) Both models sample from the same noise, so what a pair has in common
cancels. The two estimates are jointly normal (Bounliphone et al. 2016, "A Test of Relative Similarity", theorem 2);
their covariance is the jackknife's for U-statistics (Arvesen 1969), which leaves out one pair, or one real image, at a
time and errs on the wide side (Efron and Stein 1981). The margin is one on a ratio, so the hypothesis is linear:

    inferior:  other - (1 + margin) dense > 0        (Fieller 1954; Hauschke et al. 1999)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from toolkit.evaluation.distances import fellow_sums, kernel_sums

ALPHA = 0.05  # how often a model at the margin may pass
Answer = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Excess:
    """Kernel distances (2,) of other and dense to real images, and their covariance (2, 2) by where it comes from."""

    values: np.ndarray
    of_pairs: np.ndarray
    of_real: np.ndarray
    pairs: int
    real: int


@dataclass(frozen=True)
class Verdict:
    """What may be said: ``ratio`` is other over dense, between one-sided bounds; None where noise leaves it open.

    ``power`` is how likely a model exactly as good as the dense one passes with these counts. ``pairs_to_decide`` and
    ``real_to_decide`` are the fewest that decide an excess like this one with the power requested; None of both if it
    lies at the margin.
    """

    verdict: Answer
    ratio: float | None
    low: float | None
    high: float | None
    power: float
    pairs_to_decide: int | None = None
    real_to_decide: int | None = None


def measure_excess(dense: np.ndarray, other: np.ndarray, real: np.ndarray) -> Excess:
    """Excesses of paired features (N, D) over those of real images (M, D); N and M at least 3."""
    among_real = fellow_sums(real)
    estimates = [_left_out(samples, real, among_real) for samples in (other, dense)]
    values, without_pair, without_real = (np.stack(parts) for parts in zip(*estimates, strict=True))
    return Excess(values, _jackknife(without_pair), _jackknife(without_real), len(dense), len(real))


def _left_out(samples: np.ndarray, real: np.ndarray, among_real: np.ndarray) -> tuple[np.ndarray, ...]:
    """The kernel distance, () and without each sample, (N,), and without each real image, (M,)."""
    n, m = len(samples), len(real)
    among, (to_real, to_samples) = fellow_sums(samples), kernel_sums(samples, real)
    own, others, cross = among.sum(), among_real.sum(), to_real.sum()
    value = own / (n * (n - 1)) + others / (m * (m - 1)) - 2 * cross / (n * m)
    without_sample = (own - 2 * among) / ((n - 1) * (n - 2)) - 2 * (cross - to_real) / ((n - 1) * m)
    without_real = (others - 2 * among_real) / ((m - 1) * (m - 2)) - 2 * (cross - to_samples) / (n * (m - 1))
    return value, without_sample + others / (m * (m - 1)), without_real + own / (n * (n - 1))


def _jackknife(left_out: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) of two estimates from their values (2, N) without each of N items."""
    gaps = left_out - left_out.mean(axis=1, keepdims=True)
    return np.asarray((gaps.shape[1] - 1) / gaps.shape[1] * gaps @ gaps.T)


def decide(excess: Excess, margin: float, *, power: float = 0.8, alpha: float = ALPHA) -> Verdict:
    """Pass if the excess is at most 1 + ``margin`` times the dense model's, with error rates of at most ``alpha``."""
    from scipy.stats import norm
    from scipy.stats import t as student

    contrast = np.array([1.0, -(1 + margin)])
    gap = float(contrast @ excess.values)
    of_pairs, of_real = (float(contrast @ part @ contrast) for part in (excess.of_pairs, excess.of_real))
    error = (of_pairs + of_real) ** 0.5
    reach = float(student.ppf(1 - alpha, min(excess.pairs, excess.real) - 1))
    answer: Answer = "pass" if gap + reach * error <= 0 else "fail" if gap - reach * error > 0 else "inconclusive"
    low, high = _ratio_bounds(excess, reach)
    dense = float(excess.values[1])
    equal = float(norm.cdf(margin * dense / error - reach)) if error else float(dense > 0)
    decided = Verdict(answer, float(excess.values[0]) / dense if dense > 0 else None, low, high, equal)
    if answer != "inconclusive":
        return decided
    allowed = (gap / (reach + float(norm.ppf(power)))) ** 2  # the variance at which this gap decides
    pairs, real = _counts(excess, of_pairs, of_real, allowed)
    return replace(decided, pairs_to_decide=pairs, real_to_decide=real)


def _counts(excess: Excess, of_pairs: float, of_real: float, allowed: float) -> tuple[int | None, int | None]:
    """Pairs and real images that bring the variance down to ``allowed``: more pairs if that will do, else of both."""
    if not allowed:
        return None, None
    if of_real < 0.9 * allowed:
        return ceil(excess.pairs * of_pairs / (allowed - of_real)), excess.real
    times = (of_pairs + of_real) / allowed
    return ceil(excess.pairs * times), ceil(excess.real * times)


def _ratio_bounds(excess: Excess, reach: float) -> tuple[float | None, float | None]:
    """Fieller's bounds of the ratio; None of both if the dense model's excess is not clearly above zero."""
    (other, dense), covariance = excess.values, excess.of_pairs + excess.of_real
    a = dense**2 - reach**2 * covariance[1, 1]
    b = other * dense - reach**2 * covariance[0, 1]
    c = other**2 - reach**2 * covariance[0, 0]
    if a <= 0 or dense <= 0:
        return None, None
    root = max(b * b - a * c, 0.0) ** 0.5
    return float((b - root) / a), float((b + root) / a)
