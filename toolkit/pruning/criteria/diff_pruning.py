"""Diff-Pruning (Fang, Ma, Wang 2023) as the paper's code computes it.

First-order Taylor importance of gradients summed over the timesteps before the noise drowns the signal:
score = sum over coupled weights of (w x sum_t dL_t/dw)^2, t running from 0 up to the first L_t < threshold x max L.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.gradients import accumulate
from toolkit.pruning.scoring import Importance, Scored, score_channels

Gradient = Callable[[str], torch.Tensor]


def squared_taylor(gradient: Gradient) -> Importance:
    """(w x g)^2, the squared first-order change of the loss if the weight went to zero."""
    return lambda name, weight: (weight * gradient(name)).square()


def absolute_taylor(gradient: Gradient) -> Importance:
    """|w x g|, which the paper's code adds for norms without squaring it."""
    return lambda name, weight: (weight * gradient(name)).abs()


class DiffPruning:
    """Gradients summed over t = 0, 1, 2, ... up to the threshold's stop."""

    name = "diff-pruning"
    description = "squared Taylor score of gradients summed over timesteps, stopped by the threshold (the paper's code)"
    reads_images = True
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        def scores(gradient: Gradient) -> dict[str, np.ndarray]:
            norm_term = absolute_taylor(gradient) if task.norm_term else None
            return score_channels(task.model, task.layout, squared_taylor(gradient), norm_term)

        assert task.calibration is not None, "this criterion reads images"
        found = {}
        for reached in accumulate(task.model, task.calibration, task.thresholds, task.effort, task.progress):
            halves = tuple(scores(half) for half in reached.gradients.parts())
            facts = {"threshold": reached.threshold, **reached.facts}
            found[reached.threshold] = Scored(scores(reached.gradients.total), facts, halves)
        return found


CRITERION = DiffPruning()
