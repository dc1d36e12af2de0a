"""Magnitude: channels with small weights go (Li et al. 2017, with squares as the paper's code has it)."""

from __future__ import annotations

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.scoring import Scored, score_channels


class Magnitude:
    """Sum of squared weights."""

    name = "magnitude"
    description = "sum of squared weights; needs no data"
    reads_images = False
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        norm_term = (lambda name, weight: weight.abs()) if task.norm_term else None
        scored = Scored(score_channels(task.model, task.layout, lambda name, weight: weight.square(), norm_term), {})
        return dict.fromkeys(task.thresholds, scored)


CRITERION = Magnitude()
