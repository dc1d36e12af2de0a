"""The Frechet distance between two sets of features."""

from __future__ import annotations

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features (N1, D) and (N2, D), in float64 (Heusel et al. 2017).

    The covariances are unbiased. With centred features A and B scaled so that S1 = A'A and S2 = B'B, the last trace is
    the sum of the singular values of A B', so no matrix root is taken and fewer images than features are no trouble.
    The distance itself is biased upwards by about 1/N: compare only distances of equal counts.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs at least two images a side")
    mean_gap = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    left, right = _root_of_covariance(first), _root_of_covariance(second)
    overlap = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(mean_gap @ mean_gap + (left**2).sum() + (right**2).sum() - 2 * overlap)


def _root_of_covariance(features: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with R'R the unbiased covariance."""
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    centred /= np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(features) > features.shape[1] else centred
