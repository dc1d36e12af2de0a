"""From a target to the stock configurations that meet it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.errors import DtkError
from toolkit.pruning.cost import Count, price
from toolkit.pruning.space import Space, Values
from toolkit.pruning.targets import TOLERANCE, Target

Retained = Callable[[Values], float]
"""The share of the scores that a configuration keeps, in [0, 1]."""


@dataclass(frozen=True)
class Candidates:
    """The configurations worth trying: the most evenly cut one, and the best retained one where that is another."""

    uniform: Values
    best: Values


def solve(space: Space, target: Target, count: Count, retained: Retained | None = None) -> Candidates:
    """The configurations that meet ``target``; without ``retained`` the choice goes by width alone.

    Raises DtkError naming the nearest figure below and above where none meets it within the tolerance.
    """
    if target.figure == "width":
        uniform = _nearest_widths(space, target)
        return Candidates(uniform, uniform)
    cost = price(space, count, [target.figure])[target.figure]
    dense = cost(space.dense_values)
    meeting = [values for values in space if target.met_by(cost(values), dense)]
    if not meeting:
        raise _unreachable(space, target, cost, dense)
    uniform = min(meeting, key=lambda v: (round(space.spread(v), 6), abs(cost(v) - target.goal(dense))))
    best = max(meeting, key=retained) if retained else uniform
    return Candidates(uniform, best)


def _nearest_widths(space: Space, target: Target) -> Values:
    values = tuple(variable.nearest(target.value) for variable in space.variables)
    if not space.allows(values):
        reachable = min(space, key=lambda v: sum(abs(a - b) / a for a, b in zip(values, v, strict=True)))
        raise DtkError(
            f"No stock configuration has width {target.value:g} of dense on every level.",
            found=f"levels {values}, of which adjacent ones become equal",
            expected="levels of unequal width stay unequal",
            do=f"ask for macs= or params=; the nearest widths are {reachable}",
        )
    return values


def _unreachable(space: Space, target: Target, cost: Callable[[Values], float], dense: float) -> DtkError:
    goal = target.goal(dense)
    costs = sorted({round(cost(values)) for values in space})
    below = [c for c in costs if c < goal]
    above = [c for c in costs if c > goal]

    def told(found: list[int], pick: int) -> str:
        return f"{target.figure}={found[pick] / dense:.4f} ({found[pick]:,})" if found else "none"

    narrower = "" if below else ", allow narrower levels with --min-width"
    return DtkError(
        f"No stock configuration has {target.figure} within {TOLERANCE:.0%} of {goal:,.0f}.",
        found=f"nearest below {told(below, -1)}, nearest above {told(above, 0)}",
        do=f"choose one of these with --target{narrower}, or try a smaller --align",
    )
