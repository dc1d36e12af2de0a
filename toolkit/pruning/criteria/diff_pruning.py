"""Diff-Pruning (Fang, Ma, Wang 2023) as the paper's code computes it.

First-order Taylor importance of gradients summed over the timesteps before the noise drowns the signal:
score = sum over coupled weights of (w x sum_t dL_t/dw)^2, t running from 0 up to the first L_t < threshold x max L.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.scoring import Scored, accumulate, score_channels


def squared_taylor(parameter: nn.Parameter) -> torch.Tensor:
    """(w x g)^2, the squared first-order change of the loss if the weight went to zero."""
    return (parameter * _gradient(parameter)).square()


def absolute_taylor(parameter: nn.Parameter) -> torch.Tensor:
    """|w x g|, which the paper's code adds for norms without squaring it."""
    return (parameter * _gradient(parameter)).abs()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class DiffPruning:
    """Gradients summed over t = 0, 1, 2, ... up to the threshold's stop."""

    name = "diff-pruning"
    description = "squared Taylor score of gradients summed over timesteps, stopped by the threshold (the paper's code)"
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        norm_term = absolute_taylor if task.norm_term else None
        found = {}
        for threshold, stop, losses in accumulate(task.model, task.calibration, task.thresholds, task.progress):
            scores = score_channels(task.model, task.layout, squared_taylor, norm_term)
            found[threshold] = Scored(scores, {"threshold": threshold, "stop_timestep": stop, "losses": list(losses)})
        return found


CRITERION = DiffPruning()
