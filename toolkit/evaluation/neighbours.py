"""Nearest neighbours among features or pixels: precision and recall, and what a sample may have been copied from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.images import Images

NEIGHBOUR = 3  # the k of Kynkaanniemi et al.
ROWS = 1024  # of the distance matrix at once


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: the share of samples that could be real. Recall: the share of real images that could be sampled."""

    precision: float
    recall: float


def precision_recall(samples: np.ndarray, real: np.ndarray, neighbour: int = NEIGHBOUR) -> PrecisionRecall:
    """Improved precision and recall of features (N1, D) and (N2, D) (Kynkaanniemi et al. 2019, equations 1 and 2).

    A set covers a point that lies no farther from one of its members than that member's k-th nearest fellow. Both
    depend on the count. Raises ValueError for k images or fewer a side.
    """
    if min(len(samples), len(real)) <= neighbour:
        raise ValueError(f"the {neighbour} nearest fellows of an image need {neighbour + 1} images per side")
    return PrecisionRecall(_covered(samples, real, neighbour), _covered(real, samples, neighbour))


def _covered(points: np.ndarray, members: np.ndarray, neighbour: int) -> float:
    """The share of ``points`` that ``members`` cover."""
    radii = np.concatenate(
        [
            np.partition(squared_distances(members[start : start + ROWS], members), neighbour, axis=1)[:, neighbour]
            for start in range(0, len(members), ROWS)  # place 0 is the member itself
        ]
    )
    inside = [
        (squared_distances(points[start : start + ROWS], members) <= radii).any(axis=1)
        for start in range(0, len(points), ROWS)
    ]
    return float(np.concatenate(inside).mean())


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N1, N2) of rows, float64, never below zero."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    lengths = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1)
    return np.maximum(lengths - 2 * one @ other.T, 0)


def nearest_images(samples: np.ndarray, images: Images, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` images nearest to each sample by pixels, nearest first.

    ``samples`` is uint8 (N, H, W, C). Returns their indices in ``images`` (N, count) and the root mean squared
    differences with pixels in [0, 1], the same shape.
    """
    flat = samples.reshape(len(samples), -1)
    count = min(count, len(images))
    best = np.full((len(flat), count), np.inf)
    numbers = np.zeros((len(flat), count), np.int64)
    for start in range(0, len(images), ROWS):
        indices = np.arange(start, min(start + ROWS, len(images)))
        distances = squared_distances(flat, images.read_uint8(indices.tolist()).reshape(len(indices), -1))
        merged = np.concatenate([best, distances], axis=1)
        places = np.concatenate([numbers, np.broadcast_to(indices, distances.shape)], axis=1)
        order = np.argsort(merged, axis=1, kind="stable")[:, :count]
        best, numbers = np.take_along_axis(merged, order, 1), np.take_along_axis(places, order, 1)
    return numbers, np.sqrt(best / flat.shape[1]) / 255


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
