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
    meeting = meet(space, target, count)
    return Candidates(meeting[0], max(meeting, key=retained) if retained else meeting[0])


def meet(space: Space, target: Target, count: Count) -> list[Values]:
    """All values that meet the target, the most evenly cut first and any with fewer blocks behind those with all.

    Raises DtkError naming the nearest figure below and above where there are none.
    """
    if target.figure == "width":
        return [_nearest_widths(space, target)]
    cost = price(space, count, [target.figure])[target.figure]
    dense = cost(space.dense_values)
    costs = {values: cost(values) for values in space}
    meeting = [values for values in costs if target.met_by(costs[values], dense)]
    if not meeting:
        raise _unreachable(space, target, sorted(set(map(round, costs.values()))), dense)

    def unevenness(values: Values) -> tuple[float, float, float]:
        off = abs(costs[values] - target.goal(dense))
        return space.removed_blocks(values), round(space.spread(values), 6), off

    return sorted(meeting, key=unevenness)


def _nearest_widths(space: Space, target: Target) -> Values:
    if all(variable.kind == "blocks" for variable in space.variables):
        raise DtkError(
            "The widths of this model are not free: it is pruned by whole blocks.",
            found=f"width={target.value:g}",
            do="ask for macs= or params=",
        )
    values = tuple(v.nearest(target.value) if v.kind == "width" else v.dense for v in space.variables)
    if not space.allows(values):
        reachable = min(space, key=lambda v: sum(abs(a - b) / a for a, b in zip(values, v, strict=True)))
        raise DtkError(
            f"No stock configuration has width {target.value:g} of dense on every level.",
            found=f"levels {values}, of which adjacent ones become equal",
            expected="levels of unequal width stay unequal",
            do=f"ask for macs= or params=; the nearest widths are {reachable}",
        )
    return values


def _unreachable(space: Space, target: Target, costs: list[int], dense: float) -> DtkError:
    goal = target.goal(dense)
    below = [c for c in costs if c < goal]
    above = [c for c in costs if c > goal]

    def told(found: list[int], pick: int) -> str:
        return f"{target.figure}={found[pick] / dense:.4f} ({found[pick]:,})" if found else "none"

    blocks = all(variable.kind == "blocks" for variable in space.variables)
    narrower = "" if below else f", allow {'fewer blocks' if blocks else 'narrower levels'} with --min-width"
    finer = "" if blocks else ", or try a smaller --align"
    return DtkError(
        f"No stock configuration has {target.figure} within {TOLERANCE:.0%} of {goal:,.0f}.",
        found=f"nearest below {told(below, -1)}, nearest above {told(above, 0)}",
        do=f"choose one of these with --target{narrower}{finer}",
    )
