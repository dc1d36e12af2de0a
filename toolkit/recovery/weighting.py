"""How much each image's timestep counts."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from diffusers.training_utils import compute_snr

from toolkit.objective import timesteps_and_kind


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
