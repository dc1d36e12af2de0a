"""What a denoiser is trained on: the noisy image and the target at a timestep, for every prediction type.

Used alike by scoring, recovery and evaluation. epsilon: Ho et al. (2020), Algorithm 1; v: Salimans and Ho (2022).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.training_utils import compute_snr

from toolkit.core.errors import DtkError


def noisy(scheduler: SchedulerMixin, images: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t (B, C, H, W) from clean images, noise of their shape and timesteps (B,)."""
    return _any(scheduler).add_noise(images, noise, t)


def target(scheduler: SchedulerMixin, images: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the denoiser should predict at x_t, (B, C, H, W)."""
    kind = timesteps_and_kind(scheduler)[1]
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return images
    return _any(scheduler).get_velocity(images, noise, t)


def predicted(prediction: torch.Tensor, channels: int) -> torch.Tensor:
    """What the target is compared with: the first ``channels`` of (B, C', H, W).

    A model that learns its variance (DiT; Nichol and Dhariwal 2021) predicts it in as many channels again.
    """
    return prediction[:, :channels]


def midpoints(timesteps: int, count: int) -> list[int]:
    """``count`` timesteps spread evenly over 0..T-1: the middles of as many equal parts."""
    return [int(timesteps * (i + 0.5) / count) for i in range(count)]


def ends_and_between(timesteps: int, count: int) -> list[int]:
    """Up to ``count`` timesteps spread evenly over 0..T-1, both ends among them."""
    return [int(t) for t in np.unique(np.linspace(0, timesteps - 1, count).round())]


def timesteps_and_kind(scheduler: SchedulerMixin) -> tuple[int, str]:
    """The number of training timesteps T and the prediction type; an unknown type is a DtkError."""
    config = _any(scheduler).config
    if config.prediction_type not in ("epsilon", "sample", "v_prediction"):
        raise DtkError(
            "dtk does not know this scheduler's prediction type.",
            found=config.prediction_type,
            expected="epsilon, sample or v_prediction",
        )
    return int(config.num_train_timesteps), str(config.prediction_type)


def _any(scheduler: SchedulerMixin) -> Any:
    # diffusers' schedulers share these methods without a common base that declares them
    return scheduler


def min_snr_weights(scheduler: SchedulerMixin, t: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weights (B,) of timesteps ``t`` (B,) for the scheduler's prediction type.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4: in units of the
    predicted image min(SNR, gamma); for noise that over SNR, for velocity over SNR + 1. At SNR 0 the noise weight is 1.
    """
    snr = compute_snr(scheduler, t)
    kind = timesteps_and_kind(scheduler)[1]
    if kind == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    clipped = snr.clamp(max=gamma)
    return clipped if kind == "sample" else clipped / (snr + 1)
