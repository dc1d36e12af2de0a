"""Noise to pixels: the denoiser in its sampling loop, the decoder after it, and each sample's condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core.errors import DtkError
from toolkit.core.files import value_sha256
from toolkit.core.noise import generator
from toolkit.data.conditions import Condition
from toolkit.data.images import Images
from toolkit.diffusion.guidance import check_guidance, guided
from toolkit.diffusion.sampling import sample
from toolkit.models.autoencoder import open_autoencoder
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import Conditioning
from toolkit.models.folder import ModelFolder, load_scheduler
from toolkit.runners.base import open_runner

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SampleConditions:
    """Sample i gets the condition of image i of ``reference``, from the start again behind its last.

    So samples and the images they are judged by are of the same classes. Where there is no reference or it has no
    conditions, a class is drawn from the sample's seed, ``seed`` + i, and a caption is the null condition.
    """

    found: Conditioning
    seed: int
    reference: Images | None = None

    @property
    def origin(self) -> str:
        """Where the conditions come from, in words."""
        if self.found.kind == "none":
            return "the model takes none"
        if self._of_reference:
            return "those of the reference images"
        return "drawn from each sample's seed" if self.found.kind == "class" else "the null condition"

    @property
    def key(self) -> str:
        """Names the conditions: equal keys, equal conditions."""
        return self.reference.fingerprint if self.reference and self._of_reference else self.origin

    def __call__(self, numbers: Sequence[int]) -> list[Condition]:
        """The conditions of these samples."""
        if self.reference and self._of_reference:
            return self.reference.conditions(self.found.kind, [number % len(self.reference) for number in numbers])
        if self.found.kind == "class":
            seeds = [self.seed + number for number in numbers]
            return [int(generator("sample class", seed).integers(self.found.classes)) for seed in seeds]
        return [None] * len(numbers)

    @property
    def _of_reference(self) -> bool:
        kind = self.found.kind
        return self.reference is not None and kind != "none" and kind in self.reference.described.values


@dataclass(frozen=True)
class SamplingSettings:
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

    def __init__(self, model: ModelFolder, plan: SamplingSettings, conditions: SampleConditions, device: str) -> None:
        check_guidance(conditions.found, plan.guidance)
        self.model, self.plan, self.conditions = model, plan, conditions
        self.scheduler = load_scheduler(model)
        self.shape = model.input_specs()["sample"].shape
        self.runner = open_runner("torch", model, device=device)
        self.conditioner, self.autoencoder = open_conditioner(model, device), open_autoencoder(model, device)
        null = self.conditioner([None]) if plan.guidance != 1 else {}
        self.predict = guided(self.runner, null, plan.guidance)

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """The images with these numbers, uint8 (N, H, W, C); DtkError if values are not finite."""
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
