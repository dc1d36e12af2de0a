"""Noise to pixels: the denoiser in its sampling loop, guided where asked, and the first stage's decoder behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.conditioner import open_conditioner
from toolkit.denoiser_inputs import input_specs
from toolkit.errors import DtkError
from toolkit.evaluation.conditions import SampleConditions
from toolkit.files import value_sha256
from toolkit.first_stage import open_first_stage
from toolkit.guidance import check_guidance, guided
from toolkit.models import ModelFolder, load_scheduler
from toolkit.runners.registry import open_runner
from toolkit.sampling import sample

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SamplingPlan:
    """How images are made; image i comes from seed + i, so neither count nor batch size changes it."""

    sampler: str
    steps: int
    seed: int
    batch_size: int = 64
    guidance: float = 1.0

    def key(self, model: ModelFolder, conditions: SampleConditions, device: str) -> str:
        """Names the samples: equal keys, equal images."""
        place = [device.split(":")[0], conditions.key]
        return value_sha256([model.sha256, self.sampler, self.steps, self.seed, self.guidance, *place])


class ImageMaker:
    """Makes images of one model by number. Raises UsageError for guidance that the model cannot be given."""

    def __init__(self, model: ModelFolder, plan: SamplingPlan, conditions: SampleConditions, device: str) -> None:
        check_guidance(conditions.found, plan.guidance)
        self.model, self.plan, self.conditions = model, plan, conditions
        self.scheduler = load_scheduler(model)
        self.shape = input_specs(model.class_name, model.config)["sample"].shape
        self.runner = open_runner("torch", model, device=device)
        self.conditioner, self.first_stage = open_conditioner(model, device), open_first_stage(model, device)
        null = self.conditioner([None]) if plan.guidance != 1 else {}
        self.predict = guided(self.runner, null, plan.guidance)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """The images with these numbers, uint8 (N, H, W, C); DtkError where values are not finite."""
        plan, seeds = self.plan, [self.plan.seed + number for number in numbers]
        made = sample(
            self.predict,
            self.scheduler,
            seeds,
            self.shape,
            plan.steps,
            plan.sampler,
            device=self.runner.device,
            conditioning=self.conditioner(self.conditions(numbers)),
        )
        return to_pixels(self.first_stage.decode(made) if self.first_stage else made, self.model, seeds)

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
