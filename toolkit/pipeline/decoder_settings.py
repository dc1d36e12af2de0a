"""The settings of the decoder stage: how an autoencoder's decoder is pruned, and trained afterwards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from toolkit.core.settings import Settings
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.targets import parse_target
from toolkit.recovery.settings import RecoverSettings

CONTINUED = ("steps", "checkpoint_every", "keep_checkpoints", "log_every", "micro_batch_size")
"""The settings that leave it the same plan and the same training, which may go on."""


class DecoderSettings(Settings):
    """Of an AutoencoderKL only the decoder is pruned and trained; its encoder and its latents stay.

    ``target`` is met by the decoder alone: macs, params or width, as in PruneSettings, from where the fields up to
    ``reconstruct`` are. Channels are scored by the error of decoded training images. ``steps``: of training against the
    dense decoder, 0 = none; the fields down to ``log_every`` are RecoverSettings'. ``features``: a feature extractor
    as the evaluation takes it, such as efficientnet-lite0, whose view of the images weighs ``feature_weight`` next to
    the pixels; None = pixels only.
    """

    target: str = "macs=0.5"
    criterion: str = "taylor"
    align: int = Field(default=8, ge=1)
    min_width: float = Field(default=0.25, gt=0, le=1)
    calibration_images: int = Field(default=32, ge=1)
    calibration_batch_size: int | None = Field(default=None, ge=1)
    reconstruct: bool = False
    steps: int = Field(default=1000, ge=0)
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(default=50, ge=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    checkpoint_every: int = Field(default=100, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)
    features: str | None = None
    feature_weight: float = Field(default=0.1, gt=0)
    seed: int = Field(default=0, ge=0)

    @field_validator("target")
    @classmethod
    def _counted(cls, target: str) -> str:
        if parse_target(target).bound("latency") is not None:
            raise ValueError("the latency of a decoder is no target; bound its macs, params or width")
        return target

    def pruning(self) -> PruneSettings:
        """What of it prunes."""
        return PruneSettings(**self.model_dump(include=set(PruneSettings.model_fields)))

    def training(self) -> RecoverSettings:
        """What of it trains."""
        return RecoverSettings(**self.model_dump(include=set(RecoverSettings.model_fields)))
