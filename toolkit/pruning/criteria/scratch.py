"""Scratch: the same structure with fresh weights, so that recovery is training from nothing."""

from __future__ import annotations

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.criteria.random import uniform_scores
from toolkit.pruning.scoring import Scored


class Scratch:
    """Fresh weights in the pruned structure."""

    name = "scratch"
    description = "the pruned structure with fresh weights; recovery then trains it from nothing"
    reads_images = False
    fresh_weights = True

    def score(self, task: Task) -> dict[float, Scored]:
        scored = uniform_scores(task.layout, task.seed)
        return dict.fromkeys(task.thresholds, scored)


CRITERION = Scratch()
