"""Precision, recall and nearest images against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.data.images import Images
from toolkit.evaluation import neighbours
from toolkit.evaluation.neighbours import nearest_images, nearest_training_images, precision_recall


def features(count, seed=0, shift=0.0):
    return (np.random.default_rng(seed).standard_normal((count, 4)) + shift).astype(np.float32)


def pictures(count, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return Images("pictures", (3, 4, 4), "0", tuple(range(count)), lambda number: pixels[number])


def covered(points, members, k):
    radii = [np.sort([np.linalg.norm(one - other) for other in members])[k] for one in members]
    inside = [any(np.linalg.norm(p - m) <= r for m, r in zip(members, radii, strict=True)) for p in points]
    return np.mean(inside)


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_equals_the_definition(shift, rows, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", rows)
    samples, real = features(40, 1, shift), features(50)
    found = precision_recall(samples, real)
    assert found.precision == covered(samples, real, 3)
    assert found.recall == covered(real, samples, 3)


def test_extremes():
    same = precision_recall(features(40), features(40))
    apart = precision_recall(features(40), features(40, 1, 100))
    narrow = precision_recall(features(40) * 0.01, features(200, 1))
    assert (same.precision, same.recall) == (1, 1)
    assert (apart.precision, apart.recall) == (0, 0)
    assert narrow.precision > 0.9
    assert narrow.recall < 0.1


def test_too_few_images():
    with pytest.raises(ValueError, match="4 images per side"):
        precision_recall(features(3), features(40))


@pytest.mark.parametrize("rows", [3, 1024])
def test_nearest_images_are_those_of_a_full_search(rows, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", rows)
    images, samples = pictures(20), pictures(6, 1).read_uint8(range(6))
    indices, differences = nearest_images(samples, images)
    for row, sample in enumerate(samples):
        gaps = (images.read_uint8(range(20)).astype(float) - sample) / 255
        rms = np.sqrt((gaps**2).mean(axis=(1, 2, 3)))
        np.testing.assert_array_equal(indices[row], np.argsort(rms)[:3])
        np.testing.assert_allclose(differences[row], np.sort(rms)[:3], rtol=1e-9)


def test_a_copy_is_found():
    train, real = pictures(30), pictures(12, 1)
    copied = train.read_uint8([4, 17])
    record, rows = nearest_training_images(copied, real, train)
    assert [numbers[0] for numbers in record["numbers"]] == [4, 17]
    assert [one[0] for one in record["root_mean_squared_differences"]] == [0, 0]
    assert min(record["held_out_images_to_their_nearest"]) > 0.2
    np.testing.assert_array_equal(rows["1. nearest"], copied)
    assert list(rows) == ["sampled", "1. nearest", "2. nearest", "3. nearest"]


def test_numbers_are_those_of_the_source():
    train = pictures(30).subset([29, 4, 9])
    record, _ = nearest_training_images(train.read_uint8([1]), pictures(12, 1), train)
    assert record["numbers"][0][0] == 4
    assert record["searched"] == 3
