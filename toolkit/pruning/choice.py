"""From scores and a target to one configuration and its channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from diffusers import ModelMixin

from toolkit.adapters.space import Space, Values
from toolkit.pruning.cost import Count
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.scores import Scorings
from toolkit.pruning.scoring import Scored
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import Target

AS_GOOD = 0.01  # of the loss: less than what other held-out images would change


@dataclass(frozen=True)
class Choice:
    """A configuration, the channels it keeps, the pruned model, and the loss it starts from."""

    values: Values
    uniform: bool
    scored: Scored
    kept: Mapping[str, np.ndarray]
    model: ModelMixin
    time_embedding_error: float
    retained: float
    one_shot_loss: float | None


Build = Callable[[Values, Mapping[str, np.ndarray]], tuple[ModelMixin, float]]
"""The pruned model of these values and kept channels, and the error of its time embedding."""


def choose(
    prunable: Prunable,
    target: Target,
    count: Count,
    scorings: Scorings,
    build: Build,
    loss: Callable[[ModelMixin], float] | None,
    *,
    by_scores: bool,
    unit: int = 1,
    latency: LatencyCost | None = None,
) -> Choice:
    """The finalist with the least one-shot loss on held-out images, or of those as good the one that suits the chip.

    Finalists are, for each threshold, the most evenly cut configuration and, with ``by_scores``, the few that retain
    most of the scores. Where the target is a latency, all of them were measured and meet it. As good are losses within
    ``AS_GOOD`` of the least: the lowest latency wins if latencies were measured, else the fewest padded channels. Then
    the least loss, and of equal ones the most evenly cut. Without ``loss`` nothing shows that another is better than
    the most evenly cut one, and that one is taken.
    """
    suits = latency.fraction if latency else partial(padding, prunable.space, unit=unit)

    def tried() -> Iterator[Choice]:
        for scored in scorings.values():
            retained_share = partial(prunable.retained, scored.scores) if by_scores and loss else None
            candidates = solve(prunable.space, target, count, retained_share, latency)
            for values in candidates.finalists:
                kept = prunable.kept(scored.scores, prunable.space.configure(values))
                model, error = build(values, kept)
                retained = prunable.retained(scored.scores, values)
                uniform = values == candidates.uniform
                one_shot = loss(model) if loss else None
                yield Choice(values, uniform, scored, kept, model, error, retained, one_shot)

    near: list[Choice] = []
    for choice in tried():  # only those that may still win are held in memory
        least = min((other.one_shot_loss or 0.0) for other in [*near, choice])
        near = [one for one in [*near, choice] if (one.one_shot_loss or 0.0) <= (1 + AS_GOOD) * least]
    return min(near, key=lambda one: (suits(one.values), one.one_shot_loss or 0.0, not one.uniform))


def padding(space: Space, values: Values, unit: int) -> float:
    """The share of the channels that a machine of this ``unit`` computes and that are none of the network's."""
    widths = [value for value, variable in zip(values, space.variables, strict=True) if variable.channels]
    computed = sum(math.ceil(width / unit) * unit for width in widths)
    return 1 - sum(widths) / computed if computed else 0.0
