"""The numbers of a sampler's update, one row per step, so that whoever runs the loop computes none of them.

With x the sample at t, p the prediction and n fresh noise, every step of DDIM (eta 0; Song et al. 2021, equation 12)
and of ancestral DDPM (Ho et al. 2020, equation 7) is, for epsilon, v and sample prediction alike,

    clean    = clip((clean_from_sample x + clean_from_prediction p) / clean_divisor)
    previous = previous_from_clean clean + previous_from_sample x + previous_from_prediction p + previous_from_noise n
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from toolkit.core.errors import DtkError, UsageError
from toolkit.diffusion.sampling import build_scheduler

COLUMNS = (
    "clean_from_sample",
    "clean_from_prediction",
    "clean_divisor",
    "previous_from_clean",
    "previous_from_sample",
    "previous_from_prediction",
    "previous_from_noise",
)
SamplerName = Literal["ddim", "ddpm"]
LEAST_VARIANCE = 1e-20  # diffusers keeps the posterior variance above it


@dataclass(frozen=True)
class Level:
    """The noise levels of one step: alpha-bar at t, and at the timestep the step leads to."""

    kept: float
    kept_before: float
    last: bool

    @property
    def signal(self) -> float:
        return float(self.kept**0.5)

    @property
    def sigma(self) -> float:
        return float((1 - self.kept) ** 0.5)


def trajectory(scheduler: Any, sampler: SamplerName, steps: int) -> dict[str, list[Any]]:
    """``timesteps`` (N,) and ``coefficients`` (N, 7), in the order of COLUMNS and of the steps, of a loop of N steps.

    ``scheduler`` is the model's own (only its config is used). Raises DtkError for what is no linear update: dynamic
    thresholding, and a learned variance under DDPM.
    """
    stepper = build_scheduler(scheduler, sampler, steps)
    _check_linear(stepper.config, sampler)
    update = _ddim if sampler == "ddim" else _ddpm
    rows = []
    timesteps = [int(t) for t in stepper.timesteps]
    for t in timesteps:
        level = _level(stepper, sampler, t)
        row = [*_clean(stepper.config.prediction_type, level), *update(stepper.config, level)]
        rows.append([_short(value) for value in row])
    return {"timesteps": timesteps, "coefficients": rows}


def trajectories(scheduler: Any, sampler: SamplerName, longest: int) -> dict[str, dict[str, list[Any]]]:
    """The trajectory of every number of steps up to ``longest`` that the scheduler can take, by the number."""
    found = {}
    for steps in range(1, longest + 1):
        with contextlib.suppress(UsageError):  # from the timestep that it ends at, some numbers lead beyond the first
            found[str(steps)] = trajectory(scheduler, sampler, steps)
    return found


def clip_range(scheduler: Any, sampler: SamplerName) -> float | None:
    """Where the clean image is clipped, None if it is not."""
    config = build_scheduler(scheduler, sampler, 1).config
    return float(config.clip_sample_range) if config.clip_sample else None


def _check_linear(config: Any, sampler: SamplerName) -> None:
    if config.thresholding:
        raise DtkError(
            "A step graph cannot hold dynamic thresholding: its bound depends on the image.",
            do="set thresholding to false in scheduler_config.json",
        )
    if sampler == "ddpm" and config.variance_type.startswith("learned"):
        raise DtkError(
            "A step graph of the sampler ddpm cannot hold a learned variance.",
            found=f"variance_type {config.variance_type}",
            do="export the sampler ddim, which does not use it",
        )


def _level(stepper: Any, sampler: SamplerName, t: int) -> Level:
    """DDIM steps T // steps down and may end above alpha-bar 1; DDPM steps to the next timestep of its list."""
    before = t - stepper.config.num_train_timesteps // stepper.num_inference_steps
    if sampler == "ddpm":
        before = int(stepper.previous_timestep(t))
    end = stepper.final_alpha_cumprod if sampler == "ddim" else 1.0
    kept_before = stepper.alphas_cumprod[before] if before >= 0 else end
    return Level(float(stepper.alphas_cumprod[t]), float(kept_before), t == 0)


def _clean(kind: str, level: Level) -> tuple[float, float, float]:
    """The clean image from x and p: (from x, from p, divisor). v: Salimans and Ho (2022), appendix D."""
    match kind:
        case "epsilon":
            return 1.0, -level.sigma, level.signal
        case "v_prediction":
            return level.signal, -level.sigma, 1.0
        case "sample":
            return 0.0, 1.0, 1.0
    raise DtkError(f"Unknown prediction type {kind!r}.", expected="epsilon, v_prediction or sample")


def _ddim(config: Any, level: Level) -> tuple[float, float, float, float]:
    """The clean image at the level before, and the noise that p says is in x: not derived from the clipped clean."""
    sigma_before = (1 - level.kept_before) ** 0.5
    match config.prediction_type:
        case "epsilon":
            from_sample, from_prediction = 0.0, 1.0
        case "v_prediction":
            from_sample, from_prediction = level.sigma, level.signal
        case _:
            from_sample, from_prediction = 1 / level.sigma, -level.signal / level.sigma
    return level.kept_before**0.5, sigma_before * from_sample, sigma_before * from_prediction, 0.0


def _ddpm(config: Any, level: Level) -> tuple[float, float, float, float]:
    alpha = level.kept / level.kept_before
    variance = (1 - level.kept_before) / (1 - level.kept) * (1 - alpha)
    if config.variance_type.startswith("fixed_large"):
        variance = 1 - alpha
    from_clean = level.kept_before**0.5 * (1 - alpha) / (1 - level.kept)
    from_sample = alpha**0.5 * (1 - level.kept_before) / (1 - level.kept)
    noise = 0.0 if level.last else max(variance, LEAST_VARIANCE) ** 0.5
    return from_clean, from_sample, 0.0, noise


def _short(value: float) -> float:
    """The float32 nearest to it, in as few digits as say so."""
    return float(str(np.float32(value)))
