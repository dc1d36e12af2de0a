"""What a training step minimises, and what it reads for that; recovery's own: losses on noisy images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from diffusers import SchedulerMixin
from torch import nn

from toolkit.diffusion.objective import min_snr_weights, noisy, target
from toolkit.models.conditioners import Conditioner
from toolkit.recovery.batches import Batch, Batches
from toolkit.recovery.losses.base import Loss, TrainingStep, loss_called

T = TypeVar("T")


class Objective(Protocol[T]):
    """What the loop is given: how samples are read, and what they lose."""

    def load(self, samples: range) -> T:
        """What the samples with these numbers are trained on, on the device; a thread may call it ahead of its step."""
        ...

    def __call__(self, batch: T) -> dict[str, torch.Tensor]:
        """The mean of each loss over a batch, with gradients."""
        ...


@dataclass(frozen=True)
class Recovery:
    """The losses of recovery on noisy images.

    ``student`` is what is called, ``network`` the module inside it. ``kept``: the features that are compared, and
    which of the teacher's channels the student has; empty if no loss needs them. ``min_snr_gamma`` weighs images by
    their timesteps; None = all alike.
    """

    student: nn.Module
    network: nn.Module
    teacher: nn.Module | None
    scheduler: SchedulerMixin
    batches: Batches
    conditioner: Conditioner
    losses: Mapping[str, float]
    kept: Mapping[str, torch.Tensor]
    min_snr_gamma: float | None
    device: torch.device

    @cached_property
    def terms(self) -> dict[str, Loss]:
        """The losses by name."""
        return {name: loss_called(name) for name in self.losses}

    def load(self, samples: range) -> Batch:
        return self.batches(samples, self.device)

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        step = TrainingStep(
            self.student,
            self.network,
            self.teacher,
            noisy(self.scheduler, batch.images, batch.noise, batch.t),
            batch.t,
            target(self.scheduler, batch.images, batch.noise, batch.t),
            direction=batch.direction,
            kept=self.kept,
            conditioning=self.conditioner(batch.conditions),
        )
        losses = {name: loss(step) for name, loss in self.terms.items()}
        if self.min_snr_gamma is not None:
            weights = min_snr_weights(self.scheduler, batch.t, self.min_snr_gamma)
            losses = {name: weights * loss for name, loss in losses.items()}
        return {name: loss.mean() for name, loss in losses.items()}
