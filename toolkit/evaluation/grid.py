"""Pictures of samples, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 64  # pixels: smaller images are enlarged by whole factors, so that their pixels stay visible
GAP = 2
TEXT = 14
MARGIN = 104


def grid(rows: Mapping[str, np.ndarray]) -> Image.Image:
    """One row of images uint8 (N, H, W, C) for each label, in order; the label stands at its left."""
    factor = max(1, TILE // max(next(iter(rows.values())).shape[1:3]))
    bands = {label: _band(images, factor) for label, images in rows.items()}
    width = MARGIN + max(band.shape[1] for band in bands.values())
    height = sum(band.shape[0] for band in bands.values())
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    top = 0
    for label, band in bands.items():
        picture.paste(Image.fromarray(band), (MARGIN, top))
        draw.text((6, top + band.shape[0] / 2), label, "black", font, anchor="lm")
        top += band.shape[0]
    return picture


def _band(images: np.ndarray, factor: int) -> np.ndarray:
    colour = np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[3] == 1 else images[..., :3]
    large = colour.repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(large, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
