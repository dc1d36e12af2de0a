"""Agreement of two scorings: 1 if they are equal, 0 where chance alone speaks."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.core.noise import generator
from toolkit.pruning.selection import kept_overlap, rank_correlation

SIZES = {"a": 4000, "b": 1000}


def random_choice(seed: int) -> dict[str, np.ndarray]:
    draw = generator("agreement", seed)
    return {"a": np.sort(draw.permutation(4000)[:3000]), "b": np.sort(draw.permutation(1000)[:250])}


def test_equal_choices_overlap_wholly_and_random_ones_as_chance_has_it() -> None:
    assert kept_overlap(random_choice(0), random_choice(0), SIZES) == 1
    assert kept_overlap(random_choice(0), random_choice(1), SIZES) == pytest.approx(0, abs=0.1)


def test_overlap_of_a_case_by_hand() -> None:
    """Two of three in common, kept share 3/6: (2/3 - 1/2) / (1 - 1/2) = 1/3; groups that lose nothing do not count."""
    one = {"a": np.array([0, 1, 2]), "whole": np.arange(5)}
    other = {"a": np.array([1, 2, 5]), "whole": np.arange(5)}
    assert kept_overlap(one, other, {"a": 6, "whole": 5}) == pytest.approx(1 / 3)
    assert kept_overlap({"whole": np.arange(5)}, {"whole": np.arange(5)}, {"whole": 5}) == 1


def test_ranks_do_not_see_the_scale() -> None:
    scores = {"a": generator("agreement", 2).random(50), "constant": np.ones(3)}
    assert rank_correlation(scores, {name: values**3 for name, values in scores.items()}) == pytest.approx(1)
    assert rank_correlation(scores, {name: -values for name, values in scores.items()}) == pytest.approx(-1)
