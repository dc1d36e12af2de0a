"""From a target to the stock configurations that meet it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.adapters.space import Space, Values
from toolkit.core.errors import DtkError
from toolkit.pruning import unreachable
from toolkit.pruning.cost import Count, price
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.targets import Bound, Target

Price = Callable[[Values], float]
"""What a configuration costs, in one figure."""
Retained = Callable[[Values], float]
"""The share of the scores that a configuration keeps, in [0, 1]."""


BEST = 3
"""How many of those that retain most are worth trying: shares of different levels are not equally dear."""


@dataclass(frozen=True)
class Candidates:
    """The configurations worth trying: the most evenly cut one, then those of the others that retain most."""

    finalists: tuple[Values, ...]

    @property
    def uniform(self) -> Values:
        """The most evenly cut one."""
        return self.finalists[0]


def solve(
    space: Space,
    target: Target,
    count: Count,
    retained: Retained | None = None,
    latency: LatencyCost | None = None,
) -> Candidates:
    """The configurations that meet ``target``; without ``retained`` the choice is by width only.

    A target in latency needs ``latency``, and its candidates were measured when they are returned. Raises DtkError
    naming the nearest figures if none meets it.
    """
    return Candidates(_finalists(meet(space, target, count, retained, latency), retained))


def _finalists(meeting: list[Values], retained: Retained | None) -> tuple[Values, ...]:
    best = sorted(meeting, key=retained, reverse=True)[:BEST] if retained else []
    return tuple(dict.fromkeys([meeting[0], *best]))


def meet(
    space: Space,
    target: Target,
    count: Count,
    retained: Retained | None = None,
    latency: LatencyCost | None = None,
) -> list[Values]:
    """All values that meet the target, the most evenly cut first and any with fewer blocks behind those with all.

    If every bound is an upper one, only those of which none can be made larger. Of a target in latency those worth
    trying were measured. Raises DtkError naming the nearest figures if there are none.
    """
    if target.bound("latency") and latency is None:
        raise DtkError("A latency can only be aimed at if one can be measured.", found=f"target {target}")
    prices = _prices(space, target, count, latency)
    width = next((bound for bound in target.bounds if bound.figure == "width" and not bound.at_most), None)
    reachable = [unreachable.nearest_widths(space, width)] if width else list(space)
    while True:
        costs = {figure: {values: cost(values) for values in reachable} for figure, cost in prices.items()}
        dense = {figure: cost(space.dense_values) for figure, cost in prices.items()}
        bounds = [bound for bound in target.bounds if bound.figure in prices]
        meeting = _meeting(space, reachable, bounds, costs, dense)
        tried = _finalists(meeting, retained) if meeting else unreachable.nearest(bounds, costs, dense)
        if latency is None or not latency.settle(tried):
            return meeting or unreachable.refuse(space, bounds, costs, dense, width.text if width else "")


def _prices(space: Space, target: Target, count: Count, latency: LatencyCost | None) -> dict[str, Price]:
    """What prices each bounded figure; a width that is met by construction has none."""
    figures = [bound.figure for bound in target.bounds if bound.figure != "width" or bound.at_most]
    counted = [figure for figure in figures if figure in ("macs", "params")]
    prices: dict[str, Price] = price(space, count, counted) if counted else {}
    known: dict[str, Price | None] = {**prices, "width": space.widest, "latency": latency}
    return {figure: cost for figure in figures if (cost := known[figure]) is not None}


def _meeting(
    space: Space,
    reachable: Sequence[Values],
    bounds: Sequence[Bound],
    costs: Mapping[str, Mapping[Values, float]],
    dense: Mapping[str, float],
) -> list[Values]:
    def unevenness(values: Values) -> tuple[float, float, float]:
        off = sum(abs(costs[b.figure][values] / b.goal(dense[b.figure]) - 1) for b in bounds)
        return space.removed_blocks(values), round(space.spread(values), 6), off

    for strictness in (0, -1):
        meeting = [
            values
            for values in reachable
            if all(b.met_by(costs[b.figure][values], dense[b.figure], b.tolerances[strictness]) for b in bounds)
        ]
        if meeting:
            return sorted(largest(meeting) if all(b.at_most for b in bounds) else meeting, key=unevenness)
    return []


def largest(meeting: Iterable[Values]) -> list[Values]:
    """Those that no other one equals or exceeds in every number: whatever keeps more retains more."""
    front: list[Values] = []
    rest = np.array(sorted(meeting, key=lambda values: (sum(values), values), reverse=True))
    while len(rest):
        front.append(tuple(int(value) for value in rest[0]))
        rest = rest[(rest > rest[0]).any(axis=1)]
    return front
