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


@pytest.mark.parametrize(
    ("full", "fraction", "taught", "most", "dense", "compressed"),
    [
        (20, 0.5, None, 1000, [2, 5, 10, 20], [5, 10, 20]),
        (20, 0.57, 4, 1000, [2, 5, 20], [4]),
        (4, 0.57, 4, 1000, [2, 4, 5], [4]),
        (20, 1.04, None, 1000, [5, 10, 20, 21], [5, 10, 20]),
        (20, 1.04, None, 20, [5, 10, 20], [5, 10, 20]),
        (1, 0.3, None, 1000, [1], [1]),
    ],
)
def test_the_dense_model_takes_all_steps_and_as_many_as_take_the_same_time(
    full: int, fraction: float, taught: int | None, most: int, dense: list[int], compressed: list[int]
) -> None:
    """And if the compressed model was taught its steps, also as many as take twice as long."""
    assert steps_of_controls(full, fraction, taught, most) == {"dense": dense, "compressed": compressed}


def test_what_the_time_is_not_known_well_enough_for_is_not_decided() -> None:
    dense = [(5.0, 9.0), (10.0, 6.0), (20.0, 5.0)]
    near = {"dense": dense, "compressed": [(10.0, 6.1)]}
    assert "fewer steps of the dense model are better" in _verdict(near)
    assert "not decided which is better: 6.100 compressed, 6.000 dense" in _verdict(near, (0.8, 1.2))
    assert "no dense one takes as little" in _verdict({"dense": [(1.0, 9.0)], "compressed": [(0.5, 9.1)]})
    longer = _verdict({"dense": [(3.0, 9.0)], "compressed": [(2.7, 8.0)]})
    assert longer == "compressing is better: 8.000 in the time of 2.7 dense steps, 9.000 dense in 3"
