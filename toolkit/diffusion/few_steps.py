"""A model that was taught to sample in few steps: its scheduler, and which numbers of steps it was taught.

The scheduler is diffusers' DDIM with stock fields only, so that a stock pipeline samples as it was taught. What was
taught stands beside them under private names, which diffusers carries along and does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from toolkit.diffusion.sampling import build_scheduler, described

TAUGHT, FOLDED = "_taught", "_guidance"
SHARED = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
    *("clip_sample", "clip_sample_range"),
)
"""The fields of a DDIM scheduler that say what the model predicts, at which noise, and what range is shown."""


def path_scheduler(scheduler: Any, steps: int) -> Any:
    """DDIM set to the trailing timesteps by which a model that was not taught goes from pure noise to an image."""
    return _ddim(scheduler, steps, {})


def solver_along(scheduler: Any, timesteps: Sequence[int]) -> Any:
    """DPM-Solver++ (2M; Lu et al. 2022, arXiv 2211.01095) set to ``timesteps``, falling.

    It costs what DDIM costs and ends nearer to the image that many steps lead to (decision 10). It remembers its last
    prediction: each batch needs a copy. Only SHARED fields are taken over: with another spacing of the model's own,
    such as Karras's, it would refuse timesteps.
    """
    config = path_scheduler(scheduler, 1).config
    solver = DPMSolverMultistepScheduler.from_config({name: config[name] for name in SHARED})
    solver.set_timesteps(timesteps=list(timesteps))
    return solver


def few_step_scheduler(
    scheduler: Any, steps: int, prediction_type: str, landings: Sequence[int] = (), guidance: float = 1.0
) -> Any:
    """The scheduler of a model that is taught ``steps`` steps, set to them; ``guidance`` is what it learns to include.

    Noise levels are those of ``scheduler``. The timesteps are ``landings``, which fall by equal distances, or trailing
    ones. It clips nothing: what a step lands on is linear in the prediction, so that each landing is that of exactly
    one prediction.
    """
    fields = {"clip_sample": False, "thresholding": False, "prediction_type": prediction_type}
    fields |= _leading(scheduler, landings) if landings else {}
    timesteps = _ddim(scheduler, steps, fields).timesteps.tolist()
    folded = {} if guidance == 1 else {FOLDED: guidance}
    return _ddim(scheduler, steps, fields | {TAUGHT: {str(steps): timesteps}} | folded)


def _leading(scheduler: Any, landings: Sequence[int]) -> dict[str, Any]:
    """The fields by which DDIM takes ``landings``: it divides all training timesteps, so those above are left out."""
    fields: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": landings[-1]}
    if len(landings) == 1:
        return fields
    count = len(landings) * (landings[0] - landings[1])
    levels = {"trained_betas": scheduler.betas[:count].tolist(), "rescale_betas_zero_snr": False}
    return fields | levels | {"num_train_timesteps": count}


def _ddim(scheduler: Any, steps: int, fields: dict[str, Any]) -> Any:
    config = described(scheduler, DDIMScheduler, without=("_use_default_values", TAUGHT, FOLDED))
    trailing = DDIMScheduler.from_config(config | {"timestep_spacing": "trailing"} | fields)
    return build_scheduler(trailing, "ddim", steps)


def taught_steps(scheduler: Any) -> list[int]:
    """The numbers of steps a model was taught to sample in; empty for one that was not taught and may take any."""
    return sorted(int(steps) for steps in scheduler.config.get(TAUGHT, {}))


def own_steps(scheduler: Any, otherwise: int) -> int:
    """The number of steps a model was taught, the last of several; ``otherwise`` if it may take any."""
    return (taught_steps(scheduler) or [otherwise])[-1]


def folded_guidance(scheduler: Any) -> float:
    """The guidance that a taught model's predictions include, so that it is sampled without; 1 if none."""
    return float(scheduler.config.get(FOLDED, 1.0))


def own_guidance(scheduler: Any, otherwise: float) -> float:
    """The guidance a model is sampled with: 1 for one whose predictions include theirs, else ``otherwise``."""
    return otherwise if folded_guidance(scheduler) == 1 else 1.0


def step_rows(scheduler: Any, prediction: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The scheduler's step of each row (B, C, H, W) at a timestep of its own (B,)."""
    landed = torch.empty_like(x)
    for timestep in t.unique().tolist():
        rows = t == timestep
        landed[rows] = scheduler.step(prediction[rows], timestep, x[rows]).prev_sample
    return landed


def landing_weights(scheduler: Any) -> torch.Tensor:
    """What a squared error of each step's landing counts, (steps,): that of the prediction which would land there.

    A landing is linear in the prediction. In v this is Salimans and Ho's SNR + 1 weight (2022, section 4).
    """
    zero, timesteps = torch.zeros(1), scheduler.timesteps.tolist()
    changes = [
        scheduler.step(zero + 1, t, zero).prev_sample - scheduler.step(zero, t, zero).prev_sample for t in timesteps
    ]
    return torch.cat(changes) ** -2
