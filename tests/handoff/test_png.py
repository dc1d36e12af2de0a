from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from toolkit.core.noise import generator
from toolkit.handoff.dtk_server.png import encode


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 5, 7), (3, 1, 1)])
def test_pillow_reads_back_the_pixels(shape: tuple[int, int, int]) -> None:
    pixels = generator("png", 0).integers(0, 256, shape)
    read = np.asarray(Image.open(io.BytesIO(encode(pixels / 255)))).reshape(*shape[1:], shape[0])
    assert np.array_equal(read, pixels.transpose(1, 2, 0))


def test_values_outside_are_clipped_and_halves_rounded_to_even() -> None:
    row = np.array([[[-1.0, 2.0, 0.5 / 255, 1.5 / 255]]])
    assert np.asarray(Image.open(io.BytesIO(encode(row)))).tolist() == [[0, 255, 0, 2]]
