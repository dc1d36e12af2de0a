"""Intervals hold what they promise, and the paired difference is sharper than the two figures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from toolkit.evaluation.distances import block_intervals, frechet_distance, interval


def test_is_students_interval():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(6.2)


def test_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    found = [interval(random.standard_normal(5)) for _ in range(2000)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def sets(count=500):
    random = np.random.default_rng(0)
    common = random.standard_normal((count, 6))
    dense = common * 1.2
    compressed = common * 1.2 + 0.1 * random.standard_normal((count, 6)) + 0.5
    return {"dense": dense, "compressed": compressed}, random.standard_normal((count, 6))


def test_blocks_are_disjoint_and_equal():
    parts = []

    def distance(one, other):
        parts.append((len(one), len(other), one[0, 0]))
        return 0.0

    found = block_intervals(distance, sets(103)[0], sets(103)[1])
    assert found["count_per_block"] == 20
    assert {part[:2] for part in parts} == {(20, 20)}
    assert len({part[2] for part in parts}) == 10


def test_the_paired_difference_is_the_difference_of_the_blocks_and_sharper():
    models, real = sets()
    found = block_intervals(frechet_distance, models, real)
    gap = found["dense_minus_compressed"]
    assert gap["mean"] == pytest.approx(found["dense"]["mean"] - found["compressed"]["mean"])
    width = {name: found[name]["high"] - found[name]["low"] for name in ("dense", "compressed")}
    assert gap["high"] - gap["low"] < np.hypot(width["dense"], width["compressed"])
    assert gap["high"] < 0  # the dense model is nearer, and the interval says so


def test_none_where_blocks_would_be_too_small():
    models, real = sets(99)
    assert block_intervals(frechet_distance, models, real) is None
