"""From tensors to channels: the loss that is scored, and importance summed over coupled layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from toolkit.errors import DtkError
from toolkit.objective import noisy, predicted, target, timesteps_and_kind
from toolkit.pruning.layout import FIXED, Layout, offsets

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class Calibration:
    """Clean images with noise of their shape (N, C, H, W), reused at every timestep.

    ``conditioning`` holds what else the denoiser takes, one row an image. ``more_noise`` are further draws of the
    noise; a scoring lets them take turns from one timestep to the next.
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

    def part(self, rows: slice, draw: int = 0) -> Calibration:
        """Some of the images with one draw of the noise; whatever has a row an image is cut here."""
        noise = (self.noise, *self.more_noise)[draw]
        conditioning = {name: rest[rows] for name, rest in self.conditioning.items()}
        return Calibration(self.images[rows], noise[rows], self.scheduler, conditioning)

    def pieces(self, size: int | None) -> list[Calibration]:
        """``size`` images at a time (None = all of them) with the first draw of the noise."""
        count = len(self.images)
        return [self.part(slice(start, start + (size or count))) for start in range(0, count, size or count)]

    def halves(self) -> list[Calibration]:
        """The first half of the images and the rest, with every draw of their noise; none of a single image."""
        middle = len(self.images) // 2
        rows = [slice(0, middle), slice(middle, None)] if middle else []
        return [replace(self.part(r), more_noise=tuple(noise[r] for noise in self.more_noise)) for r in rows]


@dataclass(frozen=True)
class Scored:
    """A score for each channel of each group, and what is worth recording about how it came about.

    ``halves`` are the scores by each half of the calibration images alone; empty for criteria that read none.
    """

    scores: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    halves: Sequence[Mapping[str, np.ndarray]] = ()


def prediction_at(model: nn.Module, calibration: Calibration, t: int) -> torch.Tensor:
    """What the denoiser makes of the noisy images (N, C, H, W) at timestep ``t``: (N, C', H, W)."""
    images, noise = calibration.images, calibration.noise
    timesteps = torch.full((len(images),), t, device=images.device, dtype=torch.long)
    x_t = noisy(calibration.scheduler, images, noise, timesteps)
    prediction: torch.Tensor = model(x_t, timesteps, **calibration.conditioning, return_dict=False)[0]
    return prediction


def loss_at(model: nn.Module, calibration: Calibration, t: int) -> torch.Tensor:
    """L_t: the batch mean of each image's *sum* of squared errors at timestep ``t``, as the paper's code has it."""
    images, noise, scheduler = calibration.images, calibration.noise, calibration.scheduler
    timesteps = torch.full((len(images),), t, device=images.device, dtype=torch.long)
    prediction = predicted(prediction_at(model, calibration, t), images.shape[1]).float()
    error: torch.Tensor = target(scheduler, images, noise, timesteps) - prediction
    return error.square().flatten(1).sum(1).mean()


Importance = Callable[[str, torch.Tensor], torch.Tensor]
"""The importance of every entry of a parameter, given its name and itself, of its shape."""


def score_channels(
    model: nn.Module, layout: Layout, importance: Importance, norm_term: Importance | None = None
) -> dict[str, np.ndarray]:
    """Sum the importance of every weight over each channel's slices, inputs and outputs alike: float64 (size,) a group.

    Weights of convolutions and linears count, biases do not. ``norm_term`` adds the norms' weights as well.
    """
    scores = {name: np.zeros(group.size) for name, group in layout.groups.items()}
    norms = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)}
    parameters = dict(model.named_parameters())
    for tensor, dims in layout.tensors.items():
        term = norm_term if tensor in norms else importance
        if term is None or tensor.endswith(".bias"):
            continue
        entries = term(tensor, parameters[tensor].detach()).double()
        if not entries.isfinite().all():
            raise DtkError(f"The scores of the tensor {tensor} hold NaN or infinity.", expected="finite gradients")
        for dim, segments in dims.items():
            sums = entries.movedim(dim, 0).flatten(1).sum(1) if entries.ndim > 1 else entries
            for offset, segment in offsets(segments):
                if segment.group != FIXED:
                    scores[segment.group] += sums[offset : offset + segment.size].cpu().numpy()
    return scores


def held_out_loss(
    model: nn.Module, calibration: Calibration, points: int = 10, *, batch_size: int | None = None
) -> float:
    """The mean squared error per element over ``points`` timesteps spread evenly over 0..T-1.

    ``batch_size``: images at once, None = all; changes memory alone.
    """
    steps, _ = timesteps_and_kind(calibration.scheduler)
    at = [int(steps * (i + 0.5) / points) for i in range(points)]
    pieces = calibration.pieces(batch_size)
    with torch.inference_mode():
        sums = [float(loss_at(model, piece, t)) * len(piece.images) for piece in pieces for t in at]
    return float(np.sum(sums)) / points / calibration.images.numel()
