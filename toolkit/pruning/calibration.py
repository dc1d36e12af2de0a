"""The images that channels are scored on, and the held-out ones that settle what scores cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from toolkit.data.images import Images
from toolkit.errors import DtkError
from toolkit.noise import generator, normal
from toolkit.pruning.scoring import Calibration

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def draw(
    images: Images, count: int, seed: int, scheduler: SchedulerMixin, device: str
) -> tuple[Calibration, Calibration]:
    """Two disjoint batches of ``count`` random training images each: for scoring, and held out from it."""
    if len(images) < 2 * count:
        raise DtkError(
            f"{images.source} has too few images to calibrate on.",
            found=f"{len(images)} training images",
            expected=f"{2 * count}: {count} to score on and {count} held out",
            do="give more images, or a smaller --calibration-images",
        )
    order = generator("calibration", seed).permutation(len(images))[: 2 * count]
    pixels = torch.from_numpy(images.read([int(i) for i in order])).to(device)
    noise = torch.from_numpy(normal("calibration noise", seed, shape=tuple(pixels.shape))).to(device)
    return (
        Calibration(pixels[:count], noise[:count], scheduler),
        Calibration(pixels[count:], noise[count:], scheduler),
    )
