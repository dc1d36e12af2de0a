"""From a target to the stock configurations that meet it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from toolkit.adapters.space import Space, Values
from toolkit.core.errors import DtkError, UnreachableError
from toolkit.pruning.cost import Count, price
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.targets import Target

Price = Callable[[Values], float]
"""What a configuration costs, in the figure of the target."""
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
    naming the nearest figure below and above if none meets it within the tolerance.
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

    Of a target in latency those worth trying were measured. Raises DtkError naming the nearest figure below and above
    if there are none.
    """
    if target.figure == "width":
        return [_nearest_widths(space, target)]
    if target.figure != "latency":
        cost = price(space, count, [target.figure])[target.figure]
        return _meeting(space, target, cost) or _refuse(space, target, cost)
    if latency is None:
        raise DtkError("A latency can only be aimed at if one can be measured.", found=f"target {target}")
    while True:
        meeting = _meeting(space, target, latency)
        if not latency.settle(_finalists(meeting, retained) if meeting else _nearest(space, target, latency)):
            return meeting or _refuse(space, target, latency)


def _meeting(space: Space, target: Target, cost: Price) -> list[Values]:
    dense = cost(space.dense_values)
    costs = {values: cost(values) for values in space}

    def unevenness(values: Values) -> tuple[float, float, float]:
        off = abs(costs[values] - target.goal(dense))
        return space.removed_blocks(values), round(space.spread(values), 6), off

    for tolerance in target.tolerances:
        meeting = [values for values in costs if target.met_by(costs[values], dense, tolerance)]
        if meeting:
            return sorted(meeting, key=unevenness)
    return []


def _nearest_widths(space: Space, target: Target) -> Values:
    if all(variable.kind == "blocks" for variable in space.variables):
        raise UnreachableError(
            "The widths of this model are not free: it is pruned by whole blocks.",
            found=f"width={target.value:g}",
            do="use macs= or params=",
        )
    for variable in space.variables:
        wanted = target.value * variable.dense
        if variable.kind == "width" and variable.choices[0] - wanted > variable.step / 2:
            raise UnreachableError(
                "The target is narrower than a level of this model may get.",
                found=f"{variable.name}: {wanted:g} of {variable.dense}",
                expected=f"at least {variable.choices[0]}, in steps of {variable.step} (norm groups, heads, --align)",
                do="request more, or allow less with --min-width",
            )
    values = tuple(v.nearest(target.value) if v.kind == "width" else v.dense for v in space.variables)
    if not space.allows(values):
        reachable = min(space, key=lambda v: sum(abs(a - b) / a for a, b in zip(values, v, strict=True)))
        raise UnreachableError(
            f"No stock configuration has width {target.value:g} of dense on every level.",
            found=f"levels {values}, of which adjacent ones become equal",
            expected="levels of unequal width stay unequal",
            do=f"use macs= or params=; the nearest widths are {reachable}",
        )
    return values


def _nearest(space: Space, target: Target, cost: Price) -> list[Values]:
    """The nearest configurations below and above the goal, if there are such."""
    goal = target.goal(cost(space.dense_values))
    costs = {values: cost(values) for values in space}
    below = max((values for values in costs if costs[values] < goal), key=costs.__getitem__, default=None)
    above = min((values for values in costs if costs[values] > goal), key=costs.__getitem__, default=None)
    return [values for values in (below, above) if values is not None]


def _refuse(space: Space, target: Target, cost: Price) -> NoReturn:
    dense = cost(space.dense_values)
    goal = target.goal(dense)
    nearest = [cost(values) for values in _nearest(space, target, cost)]
    below, above = ([c for c in nearest if c < goal], [c for c in nearest if c > goal])

    def listed(found: list[float]) -> str:
        return f"{target.figure}={found[0] / dense:.4f} ({target.shown(found[0])})" if found else "none"

    blocks = all(variable.kind == "blocks" for variable in space.variables)
    narrower = "" if below else f", allow {'fewer blocks' if blocks else 'narrower levels'} with --min-width"
    finer = "" if blocks else ", or try a smaller --align"
    raise UnreachableError(
        f"No stock configuration has {target.figure} within {target.tolerances[-1]:.0%} of {target.shown(goal)}.",
        found=f"nearest below {listed(below)}, nearest above {listed(above)}",
        do=f"choose one of these with --target{narrower}{finer}",
    )
