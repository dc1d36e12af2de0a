"""Taylor: Diff-Pruning's score over every timestep, with no stop (Molchanov et al. 2019; the paper's baseline)."""

from __future__ import annotations

from dataclasses import replace

from toolkit.pruning.criteria.base import Task
from toolkit.pruning.criteria.diff_pruning import DiffPruning
from toolkit.pruning.scoring import Scored


class Taylor:
    """Gradients summed over all timesteps."""

    name = "taylor"
    description = "squared Taylor score of gradients summed over all timesteps"
    reads_images = True
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        (scored,) = DiffPruning().score(replace(task, thresholds=(0.0,))).values()
        return dict.fromkeys(task.thresholds, scored)


CRITERION = Taylor()
