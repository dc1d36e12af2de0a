"""The kernel distance against torchmetrics' polynomial kernel and a plain double loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from toolkit.evaluation import distances
from toolkit.evaluation.distances import kernel_distance


def features(count, seed=0, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((count, 12)) + shift).astype(np.float32)


def test_equals_the_double_loop():
    first, second = features(9), features(7, 1, 0.5)

    def k(one, other):
        return (one.astype(np.float64) @ other.astype(np.float64) / 12 + 1) ** 3

    within = np.mean([k(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j])
    within_other = np.mean([k(a, b) for i, a in enumerate(second) for j, b in enumerate(second) if i != j])
    across = np.mean([k(a, b) for a in first for b in second])
    assert kernel_distance(first, second) == pytest.approx(within + within_other - 2 * across, rel=1e-9)


def test_equals_torchmetrics_whatever_the_block(monkeypatch):
    first, second = features(200), features(200, 1, 0.3)
    expected = float(poly_mmd(torch.from_numpy(first).double(), torch.from_numpy(second).double()))
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(distances, "ROWS", 33)
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_is_unbiased():
    values = [kernel_distance(features(30, seed), features(30, seed + 1000)) for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_wants_two_images_a_side():
    with pytest.raises(ValueError, match="at least two"):
        kernel_distance(features(1), features(5))
