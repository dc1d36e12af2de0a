"""Random: the control that every criterion has to beat."""

from __future__ import annotations

from toolkit.core.noise import generator
from toolkit.pruning.criteria.base import Task
from toolkit.pruning.layout import Layout
from toolkit.pruning.scoring import Scored


def uniform_scores(layout: Layout, seed: int) -> Scored:
    """A score in [0, 1) for each channel, from the group's name and the seed."""
    return Scored({n: generator(f"random score {n}", seed).random(g.size) for n, g in layout.groups.items()}, {})


class Random:
    """Uniform scores."""

    name = "random"
    description = "uniform random scores; the control"
    reads_images = False
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        scored = uniform_scores(task.layout, task.seed)
        return dict.fromkeys(task.thresholds, scored)


CRITERION = Random()
