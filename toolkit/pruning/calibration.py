"""The images that channels are scored on, and the held-out ones that settle what scores cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from toolkit.adapters.inputs import keywords
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator, normal
from toolkit.data.examples import Examples
from toolkit.diffusion.objective import midpoints, noisy, predicted, target, timesteps_and_kind
from toolkit.models.conditioners import Conditioner
from toolkit.pruning.settings import PruneSettings

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class Calibration:
    """Clean images with noise of their shape (N, C, H, W), reused at every timestep.

    ``conditioning`` holds what else the denoiser takes, one row per image. ``more_noise`` are further draws of the
    noise; a scoring lets them alternate from one timestep to the next.
    """

    images: torch.Tensor
    noise: torch.Tensor
    scheduler: SchedulerMixin
    conditioning: Mapping[str, torch.Tensor] = field(default_factory=dict)
    more_noise: tuple[torch.Tensor, ...] = ()

    @property
    def draws(self) -> int:
        """How many noise tensors there are."""
        return 1 + len(self.more_noise)

    @property
    def steps(self) -> int:
        """T: timesteps are 0..T-1."""
        return timesteps_and_kind(self.scheduler)[0]

    def part(self, rows: slice, draw: int = 0) -> Calibration:
        """Some of the images with one draw of the noise; whatever has one row per image is cut here."""
        noise = (self.noise, *self.more_noise)[draw]
        conditioning = {name: rest[rows] for name, rest in self.conditioning.items()}
        return replace(self, images=self.images[rows], noise=noise[rows], conditioning=conditioning, more_noise=())

    def pieces(self, size: int | None) -> list[Calibration]:
        """``size`` images at a time (None = all of them) with the first draw of the noise."""
        count = len(self.images)
        return [self.part(slice(start, start + (size or count))) for start in range(0, count, size or count)]

    def halves(self) -> list[Calibration]:
        """The first half of the images and the rest, with every draw of their noise; none of a single image."""
        middle = len(self.images) // 2
        rows = [slice(0, middle), slice(middle, None)] if middle else []
        return [replace(self.part(r), more_noise=tuple(noise[r] for noise in self.more_noise)) for r in rows]

    def prediction_at(self, model: nn.Module, t: int) -> torch.Tensor:
        """What the denoiser makes of the noisy images (N, C, H, W) at timestep ``t``: (N, C', H, W)."""
        timesteps = self._timesteps(t)
        x_t = noisy(self.scheduler, self.images, self.noise, timesteps)
        prediction: torch.Tensor = model(x_t, timesteps, **keywords(self.conditioning), return_dict=False)[0]
        return prediction

    def target_at(self, t: int) -> torch.Tensor:
        """What the denoiser should make of them."""
        wanted: torch.Tensor = target(self.scheduler, self.images, self.noise, self._timesteps(t))
        return wanted

    def loss_at(self, model: nn.Module, t: int) -> torch.Tensor:
        """L_t: the batch mean of each image's *sum* of squared errors at timestep ``t``, as the paper's code has it."""
        prediction = predicted(self.prediction_at(model, t), self.images.shape[1]).float()
        return (self.target_at(t) - prediction).square().flatten(1).sum(1).mean()

    def _timesteps(self, t: int) -> torch.Tensor:
        return torch.full((len(self.images),), t, device=self.images.device, dtype=torch.long)


@dataclass(frozen=True)
class DecoderCalibration(Calibration):
    """Images, and in ``conditioning`` what a decoder is given for them: no noise, and one timestep."""

    @classmethod
    def of(cls, images: torch.Tensor, sample: torch.Tensor) -> DecoderCalibration:
        """Images (N, C, H, W) and the decoder's inputs (N, c, h, w)."""
        return cls(images, images.new_zeros(len(images)), None, {"sample": sample})

    @property
    def steps(self) -> int:
        return 1

    def prediction_at(self, model: nn.Module, t: int) -> torch.Tensor:
        prediction: torch.Tensor = model(**self.conditioning, return_dict=False)[0]
        return prediction

    def target_at(self, t: int) -> torch.Tensor:
        return self.images


def held_out_loss(
    model: nn.Module, calibration: Calibration, points: int = 10, *, batch_size: int | None = None
) -> float:
    """The mean squared error per element over ``points`` timesteps spread evenly over 0..T-1.

    ``batch_size``: images at once, None = all; changes memory only.
    """
    at = midpoints(calibration.steps, min(points, calibration.steps))
    pieces = calibration.pieces(batch_size)
    with torch.inference_mode():
        sums = [float(piece.loss_at(model, t)) * len(piece.images) for piece in pieces for t in at]
    return float(np.sum(sums)) / len(at) / calibration.images.numel()


@dataclass(frozen=True)
class Calibrations:
    """Two disjoint sets of images: those that are scored on, and as many held out from it; where they come from."""

    scored: Calibration
    held_out: Calibration
    source: str
    sha256: str
    skipped: int


def calibration_order(images: Examples, settings: PruneSettings) -> list[int]:
    """The numbers of the images that are scored on, then those of as many held out. Raises DtkError for too few."""
    count = settings.calibration_images
    if len(images) < 2 * count:
        raise DtkError(
            "There are too few images to calibrate on.",
            found=f"{len(images)} training images in {images.source}",
            expected=f"{2 * count}: {count} to score on and {count} held out",
            do="give more images, or a smaller --calibration-images (calibration_images=)",
        )
    return [int(i) for i in generator("calibration", settings.seed).permutation(len(images))[: 2 * count]]


def draw(
    images: Examples, settings: PruneSettings, scheduler: SchedulerMixin, conditioner: Conditioner, device: str
) -> Calibrations:
    """Two disjoint sets of ``settings.calibration_images`` random training images each.

    Their conditions are the data's own, the null condition if it has none. Raises DtkError for too few images.
    """
    count, seed = settings.calibration_images, settings.seed
    order = calibration_order(images, settings)
    pixels = torch.from_numpy(images.read(order)).to(device)
    shape = tuple(pixels.shape)
    noise, *more = (
        torch.from_numpy(normal("calibration noise", seed, n, shape=shape)).to(device)
        for n in range(settings.noise_draws)
    )
    inputs = conditioner(images.conditions(conditioner.conditioning.kind, order))
    every = Calibration(pixels, noise, scheduler, inputs)
    scored = replace(every.part(slice(count)), more_noise=tuple(noise[:count] for noise in more))
    held_out = every.part(slice(count, None))
    return Calibrations(scored, held_out, images.source, images.sha256, len(images.skipped))
