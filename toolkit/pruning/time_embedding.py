"""A narrower sinusoid for the same time embedding.

diffusers' sinusoid has the width of the first level. With ``freq_shift`` moved by as much as the number of frequencies
shrinks, the frequencies that stay are the same and only the slowest go. Over t = 0..T-1 those are smooth, so that the
first linear layer can make up for them: its weight is fitted again by ridge least squares over all T timesteps
(128 to 96 wide: 1e-7 relative; half the width of a narrow level: a third of the output, which recovery has to learn).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding

RIDGES = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)  # relative to the largest singular value squared
SLACK = 1.5  # how much more error in bfloat16 than the best ridge's is taken for more exactness in float32


def sinusoid(config: Mapping[str, Any], timesteps: int) -> torch.Tensor:
    """The sinusoidal embedding (T, block_out_channels[0]) of t = 0..T-1 under a UNet's config, float64."""
    embedding: torch.Tensor = get_timestep_embedding(
        torch.arange(timesteps),
        config["block_out_channels"][0],
        flip_sin_to_cos=config["flip_sin_to_cos"],
        downscale_freq_shift=config["freq_shift"],
    )
    return embedding.double()


def refit(
    weight: torch.Tensor, bias: torch.Tensor, dense: Mapping[str, Any], narrow: Mapping[str, Any], timesteps: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weight (H, w'), bias (H,) of the first linear layer for the narrower sinusoid, and the relative error left.

    ``weight`` (H, w) and ``bias`` (H,) are the dense layer's. The error is max |new - old| / max |old| over all
    timesteps, with the new weights rounded to the dtype they are stored in.
    """
    weight, bias = weight.cpu(), bias.cpu()  # small, and the sinusoids lie there
    wanted = sinusoid(dense, timesteps) @ weight.double().T + bias.double()
    inputs = torch.nn.functional.pad(sinusoid(narrow, timesteps), (0, 1), value=1.0)  # the last column is the bias
    u, s, vh = torch.linalg.svd(inputs, full_matrices=False)
    projected = u.T @ wanted

    def solve(ridge: float) -> torch.Tensor:
        return (vh.T @ ((s / (s.square() + ridge * s[0].square()))[:, None] * projected)).T

    def error(solution: torch.Tensor, dtype: torch.dtype) -> float:
        return float((inputs @ solution.to(dtype).double().T - wanted).abs().max() / wanted.abs().max())

    # A small ridge is exact and has large weights, which half precision rounds: the smallest that bfloat16 can bear.
    solutions = [solve(ridge) for ridge in RIDGES]
    halved = [error(solution, torch.bfloat16) for solution in solutions]
    chosen = next(s for s, e in zip(solutions, halved, strict=True) if e <= SLACK * min(halved)).to(weight.dtype)
    return chosen[:, :-1].contiguous(), chosen[:, -1].contiguous(), error(chosen, weight.dtype)
