"""What a denoiser is trained on: the noisy image and the target at a timestep, for every prediction type.

Used alike by scoring, recovery and evaluation. epsilon: Ho et al. (2020), Algorithm 1; v: Salimans and Ho (2022).
Only a scheduler's noise levels and prediction type count: the ``add_noise`` of those made for sampling (Euler,
DPM-Solver, UniPC) noises images as their own steps want them, which is not how the model was trained.
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
    of_image, of_noise = _shares(scheduler, images, t)
    return of_image * images + of_noise * noise


def target(scheduler: SchedulerMixin, images: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the denoiser should predict at x_t, (B, C, H, W)."""
    kind = timesteps_and_kind(scheduler)[1]
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return images
    of_image, of_noise = _shares(scheduler, images, t)
    return of_image * noise - of_noise * images


def _shares(scheduler: SchedulerMixin, images: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What x_t has of the image and of the noise, each (B, 1, 1, 1)."""
    kept = _any(scheduler).alphas_cumprod.to(images)[t.to(images.device)].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


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
    """The number of training timesteps T and the prediction type.

    Raises DtkError for an unknown type and for a scheduler without DDPM's noise levels, such as one of flow matching.
    """
    config, has_levels = _any(scheduler).config, hasattr(scheduler, "alphas_cumprod")
    kind = config.get("prediction_type")
    if kind not in ("epsilon", "sample", "v_prediction") or not has_levels:
        raise DtkError(
            f"dtk does not know how a model with this {type(scheduler).__name__} is trained.",
            found=f"prediction type {kind}, {'' if has_levels else 'no '}noise levels of DDPM",
            expected="prediction type epsilon, sample or v_prediction, noise levels of DDPM (betas)",
        )
    return int(config.num_train_timesteps), str(kind)


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
