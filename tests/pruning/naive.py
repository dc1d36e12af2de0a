"""Diff-Pruning written straight from the formula, one channel at a time: slow, and shares no code with the prunable.

score(channel) = sum over the coupled convolutions and linears of sum_k (w_k x sum_{t < t*} dL_t/dw_k)^2, with
L_t = mean over images of sum over elements of (epsilon - epsilon_theta(x_t, t))^2, and t* the first t at which
L_t < threshold x max_{s <= t} L_s.
"""

from __future__ import annotations

import torch
from torch import nn


def summed_gradients(
    model: nn.Module, x: torch.Tensor, e: torch.Tensor, alphas_cumprod: torch.Tensor, threshold: float
) -> tuple[dict[str, torch.Tensor], int]:
    """The gradient of every parameter summed over t < t*, and t*."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    largest = 0.0
    for t in range(len(alphas_cumprod)):
        a = alphas_cumprod[t]
        x_t = a.sqrt() * x + (1 - a).sqrt() * e
        prediction = model(x_t, torch.tensor([t] * len(x))).sample
        loss = sum(((e[i] - prediction[i]) ** 2).sum() for i in range(len(x))) / len(x)
        largest = max(largest, float(loss))
        if float(loss) < threshold * largest:
            return total, t
        for name, gradient in zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total[name] += gradient
    return total, len(alphas_cumprod)


def channel_score(model: nn.Module, gradients: dict[str, torch.Tensor], places: list[tuple[str, int, int]]) -> float:
    """The score of one channel, given every (weight, dimension, index) that holds it."""
    parameters = dict(model.named_parameters())
    total = 0.0
    for name, dim, index in places:
        w, g = parameters[name].select(dim, index), gradients[name].select(dim, index)
        total += float(((w.double() * g.double()) ** 2).sum())
    return total
