"""The picture shows every image in its place."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.evaluation.grid import GAP, MARGIN, TILE, grid


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 64, 100])
def test_tiles_are_the_images(size, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, size, size, channels), dtype=np.uint8)
    picture = np.asarray(grid({"dense": images[0], "compressed": images[1]}))
    factor = max(1, TILE // size)
    pitch = size * factor + 2 * GAP
    assert picture.shape == (2 * pitch, MARGIN + 3 * pitch, 3)
    for row in range(2):
        for column in range(3):
            top, left = row * pitch + GAP, MARGIN + column * pitch + GAP
            tile = picture[top : top + size * factor : factor, left : left + size * factor : factor]
            np.testing.assert_array_equal(tile, np.broadcast_to(images[row, column], (size, size, 3)))


def test_rows_of_unequal_length():
    rows = {"dense": np.zeros((4, 8, 8, 1), np.uint8), "real": np.zeros((1, 8, 8, 1), np.uint8)}
    assert grid(rows).width == MARGIN + 4 * (TILE + 2 * GAP)
