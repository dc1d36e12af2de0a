"""Settings of the recover stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from toolkit.core.settings import Settings


class RecoverSettings(Settings):
    """How the pruned model is trained, for ``steps`` steps; 0 only if it is taught at once to sample in few.

    ``losses``: weight of each loss by name; None is the best mix of benchmarks/recovery.py, as far as it fits the
    model (toolkit.recovery.mix). ``min_snr_gamma``: weigh images by their timesteps as Min-SNR does with
    this gamma (5 is usual; None = all alike). ``batch_size``: images per step over all processes; ``micro_batch_size``:
    how many of them at once in a process (None = all), which changes memory and not the result. ``warmup_steps``:
    linear rise of the learning rate, which then falls to zero along a cosine ("cosine"; continuing to more steps starts
    it again at a higher rate) or is constant ("constant"). ``ema``: the largest decay of the averaged weights; early
    on it is (1 + step) / (10 + step). ``flip``: mirror half of the images. ``condition_dropout``: the share of images
    that are trained without their class or caption, if the model has a null condition, so that guidance still
    works. ``compile`` and ``channels_last``: torch.compile, and the memory layout that many GPUs (and some CPUs)
    convolve faster in; both change rounding only. ``track``: also log to one of accelerate's trackers, such as
    tensorboard, wandb or trackio. ``keep_checkpoints``: how many of the last ones stay on disk.

    ``sampling_steps``: afterwards teach the model to sample in so few steps; None = do not. ``teaching``: the
    method, ``teaching_steps``: its training steps, ``teaching_rate``: its learning rate, ``teacher_steps``: how
    many the dense model takes (None = 10 or two and a half a step, or the least of at least 16 that halve),
    ``teaching_guidance``: folded into what is taught; at 1 the null condition is taught as well. ``trajectories``:
    how many of the dense model's the method "trajectory" learns from. ``prediction_type``: of the taught model;
    None = the dense one's.
    """

    steps: int = Field(default=500, ge=0)
    batch_size: int = Field(default=64, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    losses: dict[str, float] | None = Field(default=None, min_length=1)
    min_snr_gamma: float | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    flip: bool = False
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    compile: bool = False
    channels_last: bool = False
    checkpoint_every: int = Field(default=100, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)
    track: str | None = None
    seed: int = Field(default=0, ge=0)
    sampling_steps: int | None = Field(default=None, ge=1)
    teaching: str = "trajectory"
    teaching_steps: int = Field(default=1000, ge=1)
    teaching_rate: float = Field(default=1e-3, gt=0)
    teacher_steps: int | None = Field(default=None, ge=2)
    teaching_guidance: float = Field(default=1.0, ge=0)
    trajectories: int = Field(default=4096, ge=1)
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = "v_prediction"

    @model_validator(mode="after")
    def _trains(self) -> RecoverSettings:
        if not self.steps and self.sampling_steps is None:
            raise ValueError("0 steps of recovery need sampling_steps, which the pruned model is then taught at once")
        return self
