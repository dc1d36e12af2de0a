"""Random images in memory, and an evaluation small enough for a test."""

from __future__ import annotations

import numpy as np

from toolkit.data.images import Images
from toolkit.evaluation.settings import EvaluateSettings

SETTINGS = EvaluateSettings(images=12, sampling_steps=2, batch_size=5)


def pictures(count, seed=0, shape=(3, 8, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)
    return Images(f"pictures {seed}", shape, f"{seed:064}", tuple(range(count)), lambda number: pixels[number])
