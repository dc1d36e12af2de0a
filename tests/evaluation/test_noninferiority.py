"""The test of non-inferiority holds the error rates it states, by simulation with known truths."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest

from toolkit.evaluation.distances import kernel_distance
from toolkit.evaluation.noninferiority import ALPHA, Verdict, decide, measure_excess

WIDTH, PAIRS, TRIALS, MARGIN = 4, 60, 300, 0.5
SHIFT = 1.2  # of the dense model's features from the real ones'


def truth(shift: float) -> float:
    """The kernel distance of two unit Gaussians whose means lie ``shift`` apart on one axis, by their moments."""
    first, second, third = shift**2, shift**4, (3 * shift + shift**3) ** 2 + 3 * (WIDTH - 1) * shift**2
    return 3 * first / WIDTH + 3 * second / WIDTH**2 + third / WIDTH**3


def features(ratio: float, seed: int, pairs: int = PAIRS, alike: float = 0.9) -> tuple[np.ndarray, ...]:
    """Dense, other and real features, the pairs correlated; the other's excess is ``ratio`` times the dense one's."""
    random = np.random.default_rng(seed)
    dense, own, real = random.standard_normal((3, pairs, WIDTH))
    other = alike * dense + (1 - alike**2) ** 0.5 * own
    dense[:, 0] += SHIFT
    other[:, 0] += brentq(lambda shift: truth(shift) - ratio * truth(SHIFT), 0, 9)
    return dense, other, real


@cache
def verdicts(ratio: float, alike: float = 0.9) -> list[Verdict]:
    seeds = range(TRIALS)
    return [decide(measure_excess(*features(ratio, seed, alike=alike)), MARGIN) for seed in seeds]


def rates(found: list[Verdict]) -> Counter[str]:
    return Counter(one.verdict for one in found)


def at_most(count: int, rate: float) -> bool:
    """Whether ``count`` of TRIALS is no evidence of more than ``rate``."""
    return bool(binomtest(count, TRIALS, rate, alternative="greater").pvalue > 1e-3)


def test_the_values_are_kernel_distances_and_true_ones() -> None:
    dense, other, real = features(1.5, 0)
    found = measure_excess(dense, other, real)
    assert found.values == pytest.approx([kernel_distance(other, real), kernel_distance(dense, real)])
    means = np.mean([measure_excess(*features(1.5, seed)).values for seed in range(TRIALS)], axis=0)
    assert means == pytest.approx([1.5 * truth(SHIFT), truth(SHIFT)], rel=0.1)


def test_the_covariance_is_that_of_repeated_draws() -> None:
    """The jackknife errs on the wide side, and not by much."""
    drawn = [measure_excess(*features(1.0, seed)) for seed in range(TRIALS)]
    true = np.cov(np.stack([one.values for one in drawn]).T)
    estimated = np.mean([one.of_pairs + one.of_real for one in drawn], axis=0)
    assert (np.diag(estimated) > 0.85 * np.diag(true)).all() and (np.diag(estimated) < 1.4 * np.diag(true)).all()


@pytest.mark.parametrize("alike", [0.0, 0.9, 1.0])
def test_at_the_margin_neither_answer_comes_more_often_than_stated(alike: float) -> None:
    found = rates(verdicts(1 + MARGIN, alike))
    assert at_most(found["pass"], ALPHA) and at_most(found["fail"], ALPHA)


def test_beyond_the_margin_it_passes_less_often_and_damage_fails() -> None:
    assert rates(verdicts(2.0))["pass"] <= rates(verdicts(1 + MARGIN))["pass"]
    assert rates(verdicts(4.0)) == {"fail": TRIALS}


@pytest.mark.parametrize("alike", [0.0, 0.9, 1.0])
def test_a_model_as_good_as_the_dense_one_passes_as_often_as_the_power_says(alike: float) -> None:
    """Or more often: a power that is estimated from one draw lies nearer to one half than the true one."""
    found = verdicts(1.0, alike)
    passes, power = rates(found)["pass"] / TRIALS, float(np.mean([one.power for one in found]))
    assert power - 0.08 < passes < power + 0.16


def test_the_dense_model_against_itself_passes() -> None:
    """Of its own noise nothing is left, so only its excess itself must be told from zero."""
    dense, _, real = features(1.0, 0)
    found = decide(measure_excess(dense, dense, real), MARGIN)
    assert (found.verdict, found.ratio) == ("pass", 1.0)
    assert found.low == found.high == pytest.approx(1.0)
    assert found.power > 0.8


def test_an_undecided_test_says_how_many_pairs_decide_and_they_do() -> None:
    undecided = next(seed for seed in range(TRIALS) if verdicts(1.0)[seed].verdict == "inconclusive")
    found = decide(measure_excess(*features(1.0, undecided)), MARGIN, power=0.8)
    assert found.pairs_to_decide is not None and found.pairs_to_decide > PAIRS
    strict = decide(measure_excess(*features(1.0, undecided)), MARGIN, power=0.95)
    assert strict.pairs_to_decide is not None and strict.pairs_to_decide > found.pairs_to_decide
    needed = decide(measure_excess(*features(1.0, 0)), 0.1)  # an average draw, and a narrow margin
    assert needed.verdict == "inconclusive" and needed.pairs_to_decide is not None
    answers = [decide(measure_excess(*features(1.3, seed, pairs=400)), 0.1).verdict for seed in range(10)]
    assert answers.count("fail") >= 8


def test_the_bounds_say_what_the_answer_says() -> None:
    """Fieller's bounds and the linear test are one test, wherever the dense model's excess is told from zero."""
    for one in verdicts(1 + MARGIN):
        if one.high is not None and one.low is not None:
            answer = "pass" if one.high <= 1 + MARGIN else "fail" if one.low > 1 + MARGIN else "inconclusive"
            assert answer == one.verdict


def test_a_dense_model_that_is_as_good_as_real_images_leaves_the_ratio_open() -> None:
    random = np.random.default_rng(0)
    dense, other, real = random.standard_normal((3, PAIRS, WIDTH))
    found = decide(measure_excess(dense, other, real), MARGIN)
    assert found.verdict == "inconclusive" and found.low is found.high is None
