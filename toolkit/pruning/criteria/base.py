"""What a criterion is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from toolkit.core.progress import Progress
from toolkit.core.registry import entries, entry
from toolkit.pruning import criteria
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.gradients import Effort
from toolkit.pruning.layout import Layout
from toolkit.pruning.scoring import Scored


@dataclass(frozen=True)
class Task:
    """What is scored, on what, and how.

    ``calibration`` is None only if the criterion reads no images. ``thresholds``: one scoring is wanted for each;
    criteria that have none return the same for all. ``norm_term``: add the paper code's |weight x gradient| of the
    norms, unsquared. ``effort``: what it may cost.
    """

    model: nn.Module
    layout: Layout
    calibration: Calibration | None
    thresholds: Sequence[float]
    norm_term: bool
    seed: int
    progress: Progress
    effort: Effort = field(default_factory=Effort)


class Criterion(Protocol):
    """Scores channels; higher is more important."""

    name: str
    description: str
    reads_images: bool  # whether it scores on calibration images
    fresh_weights: bool  # whether the pruned model starts from fresh weights instead of the dense model's

    def score(self, task: Task) -> dict[float, Scored]:
        """The scores for each threshold."""
        ...


def known_criteria() -> dict[str, Criterion]:
    """Every criterion, by name."""
    return entries(criteria, "CRITERION", Criterion)


def criterion_called(name: str) -> Criterion:
    """The criterion called ``name``; an unknown one is refused with the list of known ones."""
    criterion: Criterion = entry(known_criteria(), "criterion", name)
    return criterion
