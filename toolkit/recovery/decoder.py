"""Recovery of a decoder: on latents of the training images it learns what the dense one makes of them.

``pixels`` is the mean absolute difference. ``features`` compares what a network for pictures sees, as LPIPS does (Zhang
et al. 2018, without its learned weights): the maps of the last convolution at each resolution, each position scaled to
unit length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.examples import Examples
from toolkit.recovery.ahead import to_device
from toolkit.recovery.batches import order
from toolkit.recovery.loop import Training
from toolkit.recovery.prepare import make_accelerator, optimiser
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State

Maps = dict[tuple[int, int], torch.Tensor]
LEAST = 1e-8  # kept off zero: a position where nothing is seen has no direction


@dataclass(frozen=True)
class LatentBatch:
    """Latents (B, c, h, w)."""

    latents: torch.Tensor


class FeatureDistance:
    """How differently ``network`` sees two batches of images; it takes pixels (B, 3, H, W) in [0, 255]."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval().requires_grad_(False)
        self._seen: Maps = {}
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._see)

    def __call__(self, made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """One distance (B,) for each pair of images (B, C, H, W) around [-1, 1]; gradients reach ``made``."""
        maps = self._maps(made)
        with torch.no_grad():
            expected = self._maps(wanted)
        return torch.stack([(maps[size] - expected[size]).square().sum(1).mean((1, 2)) for size in maps]).mean(0)

    def _maps(self, images: torch.Tensor) -> Maps:
        self._seen = {}
        self._network((images.float() + 1).mul(127.5).expand(-1, 3, -1, -1))
        return {size: nn.functional.normalize(seen.float(), dim=1, eps=LEAST) for size, seen in self._seen.items()}

    def _see(self, module: nn.Module, given: Any, output: torch.Tensor) -> None:
        height, width = output.shape[2:]
        self._seen[height, width] = output


@dataclass(frozen=True)
class DecoderRecovery:
    """The losses of a decoder: ``student`` against ``teacher``, both behind ``before``, what makes their input."""

    student: nn.Module
    teacher: nn.Module
    before: Callable[[torch.Tensor], torch.Tensor]
    latents: Examples
    seed: int
    features: FeatureDistance | None
    device: torch.device

    @cached_property
    def _order(self) -> Callable[[int], int]:
        return order(len(self.latents), self.seed, "decoder order")

    def load(self, samples: range) -> LatentBatch:
        latents = self.latents.read([self._order(sample) for sample in samples])
        return LatentBatch(to_device(torch.from_numpy(latents), self.device))

    def __call__(self, batch: LatentBatch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            given = self.before(batch.latents)
            wanted = self.teacher(given)[0].float()
        made = self.student(given)[0].float()
        losses = {"pixels": (made - wanted).abs().mean()}
        if self.features is not None:
            losses["features"] = self.features(made, wanted).mean()
        return losses


def prepare_decoder(
    student: nn.Module,
    teacher: nn.Module,
    before: Callable[[torch.Tensor], torch.Tensor],
    latents: Examples,
    settings: RecoverSettings,
    device: str,
    folder: Path,
    features: tuple[nn.Module, float] | None = None,
) -> tuple[Training, State]:
    """All that trains ``student``; ``features`` is a network for pictures and what its distance weighs."""
    accelerator = make_accelerator(settings, device, folder)
    student.to(accelerator.device)
    average = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    wrapped, optimizer = accelerator.prepare(student, optimiser(student, settings))
    distance = FeatureDistance(features[0].to(accelerator.device)) if features else None
    objective = DecoderRecovery(
        wrapped, teacher.requires_grad_(False), before, latents, settings.seed, distance, accelerator.device
    )
    losses = {"pixels": 1.0} | ({"features": features[1]} if features else {})
    training = Training(accelerator, wrapped, student, objective, settings, losses)
    return training, State(student, average, optimizer, accelerator.scaler)
