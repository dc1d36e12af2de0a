"""Diff-Pruning (Fang, Ma, Wang 2023) as the paper's code computes it.

First-order Taylor importance of gradients summed over the timesteps before the noise drowns the signal:
score = sum over coupled weights of (w x sum_t dL_t/dw)^2, t running from 0 up to the first L_t < threshold x max L.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.gradients import Gradient, accumulate, accumulate_to
from toolkit.pruning.scoring import Importance, Scored, score_channels

HALVES_VISIT = 8
"""Timesteps at which each half of the images is scored again: enough to compare ranks, and no second set of gradients
has to be kept next to the sum over all images."""


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
        scorings = {
            reached.threshold: Scored(scores(reached.gradient), {"threshold": reached.threshold, **reached.facts})
            for reached in accumulate(task.model, task.calibration, task.thresholds, task.effort, task.progress)
        }
        stops = {threshold: scored.facts["stop_timestep"] for threshold, scored in scorings.items()}
        effort = replace(task.effort, timesteps=HALVES_VISIT)
        halves = [
            {reached.threshold: scores(reached.gradient) for reached in accumulate_to(task.model, half, stops, effort)}
            for half in task.calibration.halves()
        ]
        return {at: replace(scored, halves=[half[at] for half in halves]) for at, scored in scorings.items()}


CRITERION = DiffPruning()
