"""Pruning in rounds: what was pruned and recovered is pruned further; the plan still names the dense model's channels.

Scores are those of the model as it is now, and the choice is made among its channels, ranked as its own norms divide
them; it is named by the dense model's channels, so that one plan describes the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from toolkit.adapters.space import Config
from toolkit.core.errors import UsageError
from toolkit.pruning.layout import Kept, Layout
from toolkit.pruning.plan import Plan
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.scores import Scorings
from toolkit.pruning.scoring import Scored
from toolkit.pruning.selection import Scores
from toolkit.pruning.targets import parse_target


def earlier_targets(target: str, rounds: int | Sequence[str]) -> list[str]:
    """The targets of the rounds before the last: ``rounds`` itself, or of so many rounds an equal share, in proportion.

    Shares are upper bounds: the last round's ``target`` has to be met, theirs are on the way. Raises UsageError for
    shares of an absolute bound, as the dense model is not counted yet, and for a round that bounds what the target
    does not.
    """
    bounds = parse_target(target).bounds
    if not isinstance(rounds, int):
        figures = {bound.figure for bound in bounds}
        others = {bound.text for one in rounds for bound in parse_target(one).bounds if bound.figure not in figures}
        if others:
            raise UsageError("A round bounds another figure than the target.", found=f"{min(others)}; target {target}")
        return list(rounds)
    absolute = next((bound.text for bound in bounds if bound.absolute), None)
    if rounds > 1 and absolute:
        raise UsageError(
            "Rounds divide a fraction of the dense model between them.",
            found=f"{rounds} rounds and the bound {absolute}",
            expected="a fraction, such as macs=0.3, or the targets of the earlier rounds",
        )

    def share(number: int) -> str:
        return ",".join(f"{bound.figure}<={bound.value ** (number / rounds):.6g}" for bound in bounds)

    return [share(number) for number in range(1, rounds)]


@dataclass(frozen=True)
class Further(Prunable):
    """A dense configuration of which an earlier round has left the channels ``left``: the model ``now``."""

    now: Prunable = field(kw_only=True)
    left: Kept = field(kw_only=True)

    def kept(self, scores: Scores, config: Config) -> dict[str, np.ndarray]:
        """The channels that stay, of those that are left."""
        own = {name: scores[name][left] for name, left in self.left.items()}
        return {name: self.left[name][places] for name, places in self.now.kept(own, config).items()}


@dataclass(frozen=True)
class Earlier:
    """The round before: its plan, and the dense configuration that the plan speaks of."""

    plan: Plan
    dense: Prunable

    @cached_property
    def now(self) -> Prunable:
        """The model as it is, made ready for pruning."""
        return Prunable(self.plan.class_name, self.plan.config, self.dense.limits)

    @cached_property
    def further(self) -> Further:
        """The dense model's configuration, of which only what is no larger than the model as it is can be reached."""
        largest = tuple(width["achieved"] for width in self.plan.facts["widths"])
        same = (self.dense.class_name, self.dense.config, self.dense.limits)
        return Further(*same, largest=largest, now=self.now, left=self.plan.kept)

    @property
    def layout(self) -> Layout:
        """The groups of the model as it is, which have the names of the dense model's."""
        return self.now.layout

    def of_dense(self, scorings: Scorings) -> Scorings:
        """Scores of the model as it is as scores of the dense model's channels; one that has gone scores 0."""
        return {
            threshold: Scored(
                self._expanded(scored.scores), scored.facts, tuple(self._expanded(half) for half in scored.halves)
            )
            for threshold, scored in scorings.items()
        }

    def _expanded(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        expanded = {}
        for name, own in scores.items():
            expanded[name] = np.zeros(self.further.layout.groups[name].size)
            expanded[name][self.plan.kept[name]] = own
        return expanded

    def of_now(self, kept: Kept) -> dict[str, np.ndarray]:
        """Channels of the dense model by their places in the model as it is, which has all of them."""
        return {name: np.searchsorted(self.plan.kept[name], channels) for name, channels in kept.items()}
