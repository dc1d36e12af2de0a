"""The images that channels are scored on, and the held-out ones that settle what scores cannot."""

from __future__ import annotations

from dataclasses import replace
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
    images: Examples,
    count: int,
    seed: int,
    scheduler: SchedulerMixin,
    conditioner: Conditioner,
    device: str,
    draws: int = 1,
) -> tuple[Calibration, Calibration]:
    """Two disjoint sets of ``count`` random training images each: for scoring, and held out from it.

    Their conditions are the data's own, the null condition where it has none. ``draws`` is how many noise tensors the
    first one has.
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
    shape = tuple(pixels.shape)
    noise, *more = (
        torch.from_numpy(normal("calibration noise", seed, n, shape=shape)).to(device) for n in range(draws)
    )
    inputs = conditioner(images.conditions(conditioner.conditioning.kind, order))
    every = Calibration(pixels, noise, scheduler, inputs)
    further = tuple(noise[:count] for noise in more)
    return replace(every.part(slice(count)), more_noise=further), every.part(slice(count, None))
