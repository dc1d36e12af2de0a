"""The halves are disjoint, whole, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.core.errors import DtkError, UsageError
from toolkit.data.images import Images
from toolkit.data.open import open_images, split


def images(count):
    return Images(
        "test", (1, 1, 1), "0", tuple(range(count)), lambda number: np.full((1, 1, 1), number % 256, np.uint8)
    )


@pytest.mark.parametrize("count", [2, 7, 1000])
@pytest.mark.parametrize("holdout", [0.3, 0.5])
def test_disjoint_and_whole(count, holdout):
    train, reference = split(images(count), holdout, 0)
    assert sorted(train.numbers + reference.numbers) == list(range(count))
    assert len(reference) == round(holdout * count)


def test_a_function_of_the_seed_alone():
    assert split(images(100), 0.1, 3)[1].numbers == split(images(100), 0.1, 3)[1].numbers
    assert split(images(100), 0.1, 3)[1].numbers != split(images(100), 0.1, 4)[1].numbers


def test_both_sides_are_a_fair_part_of_a_sorted_source():
    train, reference = split(images(1000), 0.5, 0)
    assert abs(np.mean(train.numbers[:200]) - 500) < 80
    assert abs(np.mean(reference.numbers[:200]) - 500) < 80


@pytest.mark.parametrize("holdout", [0.1, 0.5])
def test_the_embedded_images_split_by_number(holdout):
    train, reference = split(open_images(None, (1, 16, 16)), holdout, 5)
    assert train.numbers == tuple(range(5000))
    assert reference.numbers == tuple(range(5000, 10_000))


@pytest.mark.parametrize("holdout", [0, 1, -0.5, 2])
def test_impossible_share(holdout):
    with pytest.raises(UsageError, match="a share between 0 and 1"):
        split(images(10), holdout, 0)


def test_a_side_without_images():
    with pytest.raises(DtkError, match="too small to be split"):
        split(images(4), 0.1, 0)
