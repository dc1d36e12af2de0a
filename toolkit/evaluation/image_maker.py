"""Noise to pixels: the denoiser in its sampling loop, and the decoder after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core.errors import DtkError
from toolkit.diffusion.guidance import check_guidance
from toolkit.evaluation.artefact import Artefact, SamplingSettings
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.models.autoencoder import open_autoencoder
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import ModelFolder

if TYPE_CHECKING:
    import torch


class ImageMaker:
    """Makes images of one model by number, in torch or as an ``artefact`` of it.

    Raises UsageError for guidance that the model cannot be given.
    """

    def __init__(
        self,
        model: ModelFolder,
        plan: SamplingSettings,
        conditions: SampleConditions,
        device: str,
        artefact: Artefact | None = None,
    ) -> None:
        check_guidance(conditions.found, plan.guidance)
        artefact = artefact or Artefact("torch", "torch", model)
        device = artefact.device(device)
        self.model, self.plan, self.conditions = model, plan, conditions
        self.conditioner, self.autoencoder = open_conditioner(model, device), open_autoencoder(model, device)
        null = self.conditioner([None]) if conditions.found.has_null else {}
        self.runner, self.draw = artefact.open(model, plan, device, null)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """The images with these numbers, uint8 (N, H, W, C); DtkError if values are not finite."""
        seeds = [self.plan.seed + number for number in numbers]
        made = self.draw(seeds, self.conditioner(self.conditions(numbers)))
        return to_pixels(self.autoencoder.decode(made) if self.autoencoder else made, self.model, seeds)

    def close(self) -> None:
        self.runner.close()


def to_pixels(images: torch.Tensor, model: ModelFolder, seeds: Sequence[int]) -> np.ndarray:
    """Images float32 (B, C, H, W) in [-1, 1] as uint8 (B, H, W, C), rounded as a saved picture is."""
    broken = [seed for seed, image in zip(seeds, images, strict=True) if not image.isfinite().all()]
    if broken:
        raise DtkError(
            f"The model {model.root} makes images that are not finite.",
            found=f"{len(broken)} of {len(seeds)} images, the first from seed {broken[0]}",
            do="recover it for longer, or with a smaller learning rate",
        )
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
