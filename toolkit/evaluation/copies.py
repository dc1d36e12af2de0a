"""Whether samples are copies: the training images nearest to them, beside how near other real images come."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.data.images import Images
from toolkit.evaluation.neighbours import nearest_images

SAMPLES = 10
NEAREST = 3
SEARCHED = 50_000  # training images; a larger set is searched no further


def nearest_training_images(
    samples: np.ndarray, real: Images, train: Images
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The nearest of ``train`` to the first samples uint8 (N, H, W, C), and how near held-out ``real`` images come.

    Samples that lie much nearer than real images do are copies. Returns the record (root mean squared differences with
    pixels in [0, 1]; numbers of the source) and the picture's rows.
    """
    searched = train.subset(range(min(len(train), SEARCHED)))
    samples = samples[:SAMPLES]
    indices, differences = nearest_images(samples, searched, NEAREST)
    _, of_real = nearest_images(real.read_uint8(range(min(len(real), SAMPLES))), searched, 1)
    record = {
        "source": train.source,
        "searched": len(searched),
        "numbers": [[searched.numbers[index] for index in row] for row in indices.tolist()],
        "root_mean_squared_differences": differences.round(4).tolist(),
        "held_out_images_to_their_nearest": of_real[:, 0].round(4).tolist(),
    }
    rows = {f"{rank}. nearest": searched.read_uint8(row.tolist()) for rank, row in enumerate(indices.T, start=1)}
    return record, {"sampled": samples} | rows
