"""CIFAR-10 from lossless sheets (WebP or PNG) to the two .npz that dtk reads; the project ships none of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def sheet_images(path: Path) -> np.ndarray:
    """The images of one sheet, row by row: (N, 32, 32, 3) uint8. Raises ValueError for another layout."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    if pixels.shape != (rows * SIDE, columns * SIDE, 3):
        raise ValueError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}: not a sheet of {SIDE}x{SIDE} images")
    return pixels.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


def write_npz(source: Path, folder: Path, limit: int | None = None) -> dict[str, int]:
    """Write ``train.npz`` and ``reference.npz`` (images and labels) of the sheets in ``source``; return the counts.

    The reference is the test sheets: the paper measures against the training images, dtk against none that was trained
    on. Raises SystemExit where a split has no sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.load(source / "labels.npz")
    counts = {}
    for name, split in (("train", "train"), ("reference", "test")):
        sheets = sorted(source.glob(f"{split}-*.webp")) + sorted(source.glob(f"{split}-*.png"))
        if not sheets:
            raise SystemExit(f"No sheet {split}-*.webp or .png in {source}.")
        images = np.concatenate([sheet_images(sheet) for sheet in sheets])[:limit]
        np.savez(folder / f"{name}.npz", images=images, labels=labels[f"{split}_labels"][: len(images)])
        counts[name] = len(images)
    return counts
