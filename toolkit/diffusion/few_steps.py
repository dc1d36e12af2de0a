"""A model that was taught to sample in few steps: its scheduler, and which numbers of steps it was taught.

The scheduler is diffusers' DDIM with stock fields only, so that a stock pipeline samples as it was taught. What was
taught stands beside them under a private name, which diffusers carries along and does not read.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler

from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.diffusion.sampling import build_scheduler

TAUGHT = "_taught"


def path_scheduler(scheduler: Any, steps: int) -> Any:
    """The scheduler by which a model that was not taught is sampled from pure noise: DDIM, trailing timesteps."""
    return _ddim(scheduler, steps, {})


def few_step_scheduler(scheduler: Any, steps: int, prediction_type: str) -> Any:
    """The scheduler of a model that is taught ``steps`` steps, set to them.

    Noise levels are those of ``scheduler``. It clips nothing: what a step lands on is linear in the prediction, so that
    each landing is that of exactly one prediction.
    """
    fields = {"clip_sample": False, "thresholding": False, "prediction_type": prediction_type}
    timesteps = _ddim(scheduler, steps, fields).timesteps.tolist()
    return _ddim(scheduler, steps, fields | {TAUGHT: {str(steps): timesteps}})


def _ddim(scheduler: Any, steps: int, fields: dict[str, Any]) -> Any:
    config = {name: value for name, value in scheduler.config.items() if name not in ("_use_default_values", TAUGHT)}
    trailing = DDIMScheduler.from_config(config | {"timestep_spacing": "trailing"} | fields)
    return build_scheduler(trailing, "ddim", steps)


def taught_steps(scheduler: Any) -> list[int]:
    """The numbers of steps a model was taught to sample in; empty for one that was not taught and may take any."""
    return sorted(int(steps) for steps in scheduler.config.get(TAUGHT, {}))


def own_steps(scheduler: Any, otherwise: int) -> int:
    """The number of steps a model was taught, the last of several; ``otherwise`` if it may take any."""
    return (taught_steps(scheduler) or [otherwise])[-1]


def step_rows(scheduler: Any, prediction: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The scheduler's step of each row (B, C, H, W) at a timestep of its own (B,)."""
    landed = torch.empty_like(x)
    for timestep in t.unique().tolist():
        rows = t == timestep
        landed[rows] = scheduler.step(prediction[rows], timestep, x[rows]).prev_sample
    return landed


def landing_weights(scheduler: Any) -> torch.Tensor:
    """What a squared error of each step's landing counts, (steps,).

    It is the error of the clean image behind the landing, times max(SNR, 1): the truncated SNR weight of Salimans and
    Ho (2022), section 4. A step that lands just below where it starts would else count next to nothing.
    """
    kind, zero = timesteps_and_kind(scheduler)[1], torch.zeros(1)
    weights = []
    for timestep in scheduler.timesteps.tolist():
        kept = float(scheduler.alphas_cumprod[timestep])
        change = scheduler.step(zero + 1, timestep, zero).prev_sample - scheduler.step(zero, timestep, zero).prev_sample
        of_clean = {"epsilon": (1 / kept - 1) ** 0.5, "v_prediction": (1 - kept) ** 0.5, "sample": 1.0}[kind]
        weights.append((of_clean / float(change)) ** 2 * max(kept / (1 - kept), 1.0))
    return torch.tensor(weights)
