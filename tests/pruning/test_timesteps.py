"""Stops found by few looks are those of the rule, and strata cover every timestep once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolkit.pruning.timesteps import APART, stops, visits

THRESHOLDS = (1.0, 0.3, 0.05, 0.001, 0.0)


def by_the_rule(losses: np.ndarray, threshold: float) -> int:
    below = np.flatnonzero(losses < threshold * np.maximum.accumulate(losses))
    return int(below[0]) if len(below) else len(losses)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(0.0, 0.2), st.floats(0.0, 5.0))
@example(steps=112, rate=0.1875, offset=0.0)
def test_stops_of_a_falling_curve_are_the_rules(steps: int, rate: float, offset: float) -> None:
    falling = 100 * np.exp(-rate * np.arange(steps)) + offset - 1e-9 * np.arange(steps)
    losses = np.maximum(falling, 0)  # a squared error
    looks: list[int] = []
    found = stops(lambda t: looks.append(t) or float(losses[t]), steps, THRESHOLDS)
    assert found == {threshold: by_the_rule(losses, threshold) for threshold in THRESHOLDS}
    assert len(looks) == len(set(looks)) <= steps // APART + 2 + len(THRESHOLDS) * 5


def test_the_maximum_is_a_running_one() -> None:
    losses = np.concatenate([np.linspace(10, 100, 40), np.linspace(100, 0, 61)])
    found = stops(lambda t: float(losses[t]), 101, [0.5, 0.3])
    assert found == pytest.approx({at: by_the_rule(losses, at) for at in (0.5, 0.3)}, abs=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(1, 400))
def test_visits_stand_for_every_timestep_once(ends: list[int], count: int) -> None:
    chosen = visits(ends, count)
    covered = [t for visit in chosen for t in range(visit.start, visit.start + visit.weight)]
    assert covered == list(range(max(ends)))
    assert all(visit.start <= visit.t < visit.start + visit.weight for visit in chosen)
    assert not any(visit.start < end < visit.start + visit.weight for visit in chosen for end in ends)
    assert len(chosen) <= count + len(ends)
