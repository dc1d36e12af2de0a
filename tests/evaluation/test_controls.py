"""Steps, crossings and verdicts of the fewer-steps control."""

from __future__ import annotations

import pytest

from toolkit.evaluation.controls import _crossed, _verdict, crossings, steps_of_controls


def test_curves_that_cross_once():
    falling = [(2.0, 10.0), (8.0, 2.0)]
    flat = [(1.0, 6.0), (16.0, 6.0)]
    assert crossings(falling, flat) == [pytest.approx(4.0)]  # half way in the logarithm


def test_curves_that_do_not_cross():
    assert crossings([(1.0, 5.0), (4.0, 3.0)], [(1.0, 6.0), (4.0, 4.0)]) == []


def test_curves_without_common_times():
    assert crossings([(1.0, 5.0), (2.0, 3.0)], [(4.0, 6.0), (8.0, 4.0)]) == []


def test_the_verdict_is_of_equal_time():
    dense = [(5.0, 9.0), (10.0, 6.0), (20.0, 5.0)]
    assert "compressing is better: 5.500" in _verdict({"dense": dense, "compressed": [(5.0, 8.0), (10.0, 5.5)]})
    assert "fewer steps of the dense model are better" in _verdict({"dense": dense, "compressed": [(10.0, 6.5)]})


@pytest.mark.parametrize(
    ("dense", "compressed", "words"),
    [
        (
            [(1, 6), (16, 6)],
            [(2, 10), (8, 2)],
            "cross at 4.0 dense steps: below it fewer steps is better, above it compressing",
        ),
        (
            [(1, 6), (16, 6)],
            [(2, 2), (8, 10)],
            "cross at 4.0 dense steps: below it compressing is better, above it fewer steps",
        ),
        ([(1, 6), (4, 4)], [(1, 5), (4, 3)], "do not cross between the times of 1.0 and 4.0 dense steps"),
        ([(4, 6), (8, 4)], [(1, 5), (2, 3)], "no time in common"),
        (
            [(1, 6), (16, 6)],
            [(1, 5), (4, 7), (16, 5)],
            "cross 2 times between the times of 1.0 and 16.0 dense steps, at 2.0",
        ),
    ],
)
def test_where_the_curves_cross_in_words(dense, compressed, words):
    assert words in _crossed(crossings(compressed, dense), {"dense": dense, "compressed": compressed})


def test_a_taught_model_is_compared_in_its_own_time_and_in_twice_that():
    assert steps_of_controls(20, 0.5, None) == {"dense": [2, 5, 10, 20], "compressed": [5, 10, 20]}
    assert steps_of_controls(20, 0.57, 4) == {"dense": [2, 5, 20], "compressed": [4]}
