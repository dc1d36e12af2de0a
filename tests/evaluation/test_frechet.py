"""The Frechet distance against scipy's matrix root, torchmetrics' formula, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from toolkit.evaluation.distances import frechet_distance


def features(count, dimensions, seed=0, scale=1.0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dimensions, dimensions)) / np.sqrt(dimensions)
    return (random.standard_normal((count, dimensions)) @ mixing * scale + shift).astype(np.float32)


def moments(values):
    values = values.astype(np.float64)
    return values.mean(axis=0), np.cov(values, rowvar=False)


CASES = [(50, 8, 60), (200, 40, 150), (64, 64, 65), (30, 48, 200), (20, 48, 30)]  # also fewer images than features


@pytest.mark.parametrize(("left", "dimensions", "right"), CASES)
def test_equals_scipys_matrix_root(left, dimensions, right):
    first, second = features(left, dimensions), features(right, dimensions, 1, 1.3, 0.2)
    (mean1, cov1), (mean2, cov2) = moments(first), moments(second)
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)
    accuracy = 1e-9 if min(left, right) > dimensions else 1e-4  # sqrtm suffers on singular matrices, we do not
    assert frechet_distance(first, second) == pytest.approx(expected, rel=accuracy)


@pytest.mark.parametrize(("left", "dimensions", "right"), CASES)
def test_equals_torchmetrics(left, dimensions, right):
    first, second = features(left, dimensions), features(right, dimensions, 1, 1.3, 0.2)
    expected = float(_compute_fid(*(torch.from_numpy(part) for side in (first, second) for part in moments(side))))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_one_dimension_in_closed_form():
    first, second = features(100, 1), features(80, 1, 1, 2.0, 1.0)
    gap = first.mean(dtype=np.float64) - second.mean(dtype=np.float64)
    spread = first.astype(np.float64).std(ddof=1) - second.astype(np.float64).std(ddof=1)
    assert frechet_distance(first, second) == pytest.approx(gap**2 + spread**2, rel=1e-9)


def test_is_zero_for_equals_and_symmetric():
    first, second = features(90, 30), features(70, 30, 1)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-12)


def test_a_shift_adds_its_square():
    first = features(500, 10)
    assert frechet_distance(first, first + 3) == pytest.approx(90, rel=1e-5)


def test_wants_two_images_a_side():
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(features(1, 4), features(9, 4))
