"""Narrower sinusoids for the same time embedding.

diffusers' sinusoid has the width of the first level. With ``freq_shift`` moved by as much as the number of frequencies
shrinks, the frequencies that stay are the same and only the slowest go. Over t = 0..T-1 those are smooth, so that the
first linear layer can make up for them: its weight is fitted again by ridge least squares over all T timesteps
(128 to 96 wide: 1e-7 relative; half the width of a narrow level: a third of the output, which recovery has to learn).

SDXL embeds sizes and crops by sinusoids with the same ``freq_shift``. Over 0..4095 the slowest are not smooth: the
narrower model has more of them, not fewer (toolkit.adapters.text_time), and they are fitted in the same way (320 to 256
wide, and to 160: 2e-7 relative in float32, 2e-3 in bfloat16; with as many as before, half of the output).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding

from toolkit.adapters.text_time import LARGEST_ID, TextTime

RIDGES = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)  # relative to the largest singular value squared
SLACK = 1.5  # how much more error in bfloat16 than the best ridge's is taken for more exactness in float32

Config = Mapping[str, Any]
Layer = tuple[torch.Tensor, torch.Tensor]
"""Weight (H, w) and bias (H,) of a linear layer."""


def sinusoid(config: Config, width: int, count: int) -> torch.Tensor:
    """The sinusoidal embedding (count, width) of 0..count-1 under a UNet's config, float64."""
    embedding: torch.Tensor = get_timestep_embedding(
        torch.arange(count),
        width,
        flip_sin_to_cos=config["flip_sin_to_cos"],
        downscale_freq_shift=config["freq_shift"],
    )
    return embedding.double()


def refit_time(layer: Layer, dense: Config, narrow: Config, timesteps: int) -> tuple[Layer, float]:
    """The first layer of the time embedding for a narrower config, and the relative error over all timesteps."""
    old, new = (sinusoid(config, config["block_out_channels"][0], timesteps) for config in (dense, narrow))
    return refit(layer, old, new)


def refit_ids(
    layer: Layer, dense: Config, narrow: Config, added: TextTime, largest: int = LARGEST_ID
) -> tuple[Layer, float]:
    """The first layer of SDXL's added embedding for a narrower config, and the relative error over ids 0..largest-1.

    Each id's columns are fitted on their own, as if they were a layer; what their biases become adds up.
    """
    weight, bias = (tensor.cpu() for tensor in layer)
    old, new = (sinusoid(config, config["addition_time_embed_dim"], largest) for config in (dense, narrow))
    columns = weight[:, added.pooled :].unflatten(1, (added.ids, -1)).transpose(0, 1).flatten(0, 1)
    (fitted, biases), error = refit((columns, torch.zeros(len(columns), dtype=weight.dtype)), old, new)
    columns = fitted.unflatten(0, (added.ids, -1)).transpose(0, 1).flatten(1)
    bias = bias + biases.unflatten(0, (added.ids, -1)).sum(0)
    return (torch.cat([weight[:, : added.pooled], columns], 1), bias), error


def refit(layer: Layer, old: torch.Tensor, new: torch.Tensor) -> tuple[Layer, float]:
    """The linear layer (H, w') on inputs ``new`` (N, w') that does what ``layer`` does on ``old`` (N, w).

    Also returns the relative error left, max |after - before| / max |before| over all N, with the new weights rounded
    to the dtype they are stored in.
    """
    weight, bias = (tensor.cpu() for tensor in layer)  # small, and the sinusoids lie there
    wanted = old @ weight.double().T + bias.double()
    inputs = torch.nn.functional.pad(new, (0, 1), value=1.0)  # the last column is the bias
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
    return (chosen[:, :-1].contiguous(), chosen[:, -1].contiguous()), error(chosen, weight.dtype)
