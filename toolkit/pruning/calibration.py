"""The images that channels are scored on, and the held-out ones that settle what scores cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from toolkit.conditioner import Conditioner
from toolkit.data.examples import Examples
from toolkit.errors import DtkError
from toolkit.noise import generator, normal
from toolkit.pruning.scoring import Calibration

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def draw(
    images: Examples, count: int, seed: int, scheduler: SchedulerMixin, conditioner: Conditioner, device: str
) -> tuple[Calibration, Calibration]:
    """Two disjoint batches of ``count`` random training images each: for scoring, and held out from it.

    Their conditions are the data's own, the null condition where it has none.
    """
    if len(images) < 2 * count:
        raise DtkError(
            f"{images.source} has too few images to calibrate on.",
            found=f"{len(images)} training images",
            expected=f"{2 * count}: {count} to score on and {count} held out",
            do="give more images, or a smaller --calibration-images",
        )
    order = [int(i) for i in generator("calibration", seed).permutation(len(images))[: 2 * count]]
    pixels = torch.from_numpy(images.read(order)).to(device)
    noise = torch.from_numpy(normal("calibration noise", seed, shape=tuple(pixels.shape))).to(device)
    inputs = conditioner(images.conditions(conditioner.conditioning.kind, order))

    def part(rows: slice) -> Calibration:
        return Calibration(pixels[rows], noise[rows], scheduler, {name: rest[rows] for name, rest in inputs.items()})

    return part(slice(count)), part(slice(count, None))
