"""How alike the two images of a pair are: SSIM and PSNR."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core.errors import MissingToolError

if TYPE_CHECKING:
    import torch

WINDOW = 11  # pixels, and a Gaussian of sigma 1.5: Wang et al. 2004
SIGMA = 1.5
BATCH = 256


def check_installed() -> None:
    """Raise MissingToolError without torchmetrics."""
    if find_spec("torchmetrics") is None:
        raise MissingToolError(
            "Comparing pairs of images needs the package torchmetrics.", do='pip install ".[metrics]"'
        )


def ssim_window(height: int, width: int) -> int:
    """The window's side: 11 as published, or the largest odd number that fits a smaller image."""
    shorter = min(WINDOW, height, width)
    return shorter - 1 + shorter % 2


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity (N,) of pairs of uint8 images (N, H, W, C), averaged over pixels and channels.

    For images smaller than the window, window and sigma shrink together. Source: Wang et al. 2004.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    window = ssim_window(*first.shape[1:3])
    values = [
        structural_similarity_index_measure(
            _planes(first[start : start + BATCH]),
            _planes(second[start : start + BATCH]),
            sigma=SIGMA * window / WINDOW,
            kernel_size=window,
            data_range=1.0,
            reduction="none",
        )
        for start in range(0, len(first), BATCH)
    ]
    return np.asarray(torch.cat([torch.as_tensor(value).reshape(-1) for value in values]).numpy())


def mean_squared_error(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean squared error (N,) of pairs of uint8 images, with pixels in [0, 1]."""
    gaps = (first.astype(np.float32) - second.astype(np.float32)) / 255
    return np.asarray((gaps.reshape(len(gaps), -1) ** 2).mean(axis=1, dtype=np.float64))


def psnr_db(first: np.ndarray, second: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio in dB of the mean squared error over all pairs; None if they are equal.

    One ratio of the whole set: a mean of per-image ratios would be infinite as soon as one pair is equal.
    """
    error = float(mean_squared_error(first, second).mean())
    return None if error == 0 else float(-10 * np.log10(error))


def _planes(images: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64) / 255)
