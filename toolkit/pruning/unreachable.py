"""A target that no stock configuration meets: the nearest ones, and the refusal that names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from toolkit.adapters.space import Space, Values
from toolkit.core.errors import UnreachableError
from toolkit.pruning.targets import Bound

Costs = Mapping[str, Mapping[Values, float]]
"""figure -> configuration -> what it costs"""
Dense = Mapping[str, float]
"""figure -> what the dense model costs"""


def nearest_widths(space: Space, bound: Bound) -> Values:
    """The configuration of which every level has the multiple nearest to that fraction of its dense width."""
    if all(variable.kind == "blocks" for variable in space.variables):
        raise UnreachableError(
            "The widths of this model are not free: it is pruned by whole blocks.",
            found=f"width={bound.value:g}",
            do="use macs= or params=",
        )
    for variable in space.variables:
        wanted = bound.value * variable.dense
        if variable.kind == "width" and variable.choices[0] - wanted > variable.step / 2:
            raise UnreachableError(
                "The target is narrower than a level of this model may get.",
                found=f"{variable.name}: {wanted:g} of {variable.dense}",
                expected=f"at least {variable.choices[0]}, in steps of {variable.step} (norm groups, heads, --align)",
                do="request more, or allow less with --min-width",
            )
    values = tuple(v.nearest(bound.value) if v.kind == "width" else v.choices[-1] for v in space.variables)
    if not space.allows(values):
        reachable = min(space, key=lambda v: sum(abs(a - b) / a for a, b in zip(values, v, strict=True)))
        raise UnreachableError(
            f"No stock configuration has width {bound.value:g} of dense on every level.",
            found=f"levels {values}, of which adjacent ones become equal",
            expected="levels of unequal width stay unequal",
            do=f"use macs= or params=; the nearest widths are {reachable}",
        )
    return values


def nearest(bounds: Sequence[Bound], costs: Costs, dense: Dense) -> list[Values]:
    """For each bound, those just below and above its goal: of all, and of those that meet the other bounds."""
    return [v for bound in bounds for among in (bounds, [bound]) for v in _beside(bound, among, costs, dense)]


def _beside(bound: Bound, bounds: Sequence[Bound], costs: Costs, dense: Dense) -> list[Values]:
    cost, goal = costs[bound.figure], bound.goal(dense[bound.figure])
    rest = _meeting([other for other in bounds if other is not bound], cost, costs, dense)
    below = max((values for values in rest if cost[values] < goal), key=cost.__getitem__, default=None)
    above = min((values for values in rest if cost[values] > goal), key=cost.__getitem__, default=None)
    return [values for values in (below, above) if values is not None]


def _meeting(bounds: Sequence[Bound], among: Iterable[Values], costs: Costs, dense: Dense) -> list[Values]:
    return [v for v in among if all(bound.met_by(costs[bound.figure][v], dense[bound.figure]) for bound in bounds)]


def refuse(space: Space, bounds: Sequence[Bound], costs: Costs, dense: Dense, of: str) -> NoReturn:
    """Raise UnreachableError that names the nearest configurations, or the bounds that contradict each other.

    ``of`` is the width that all of these configurations have, "" if it is free.
    """
    for bound in bounds:
        if not _meeting([bound], costs[bound.figure], costs, dense):
            _refuse_alone(space, bound, costs, dense, f" with {of}" if of else "")
    compromises = [_compromise(bound, bounds, costs, dense) for bound in bounds]
    raise UnreachableError(
        f"The bounds {' and '.join(bound.text for bound in bounds)} contradict each other.",
        found="; ".join(line for line in compromises if line) or "no two of them can be met at once",
        do="relax one of them",
    )


def _refuse_alone(space: Space, bound: Bound, costs: Costs, dense: Dense, of: str) -> NoReturn:
    cost, one = costs[bound.figure], dense[bound.figure]
    goal = bound.goal(one)
    beside = [cost[values] for values in _beside(bound, [bound], costs, dense)]
    below, above = ([c for c in beside if c < goal], [c for c in beside if c > goal])

    def listed(nearest: list[float]) -> str:
        return f"{bound.figure}={nearest[0] / one:.4f} ({bound.shown(nearest[0])})" if nearest else "none"

    blocks = all(variable.kind == "blocks" for variable in space.variables)
    narrower = f", allow {'fewer blocks' if blocks else 'narrower levels'} with --min-width"
    finer = "" if blocks or bound.at_most else ", or try a smaller --align"
    near = "at most" if bound.at_most else f"within {bound.tolerances[-1]:.0%} of"
    raise UnreachableError(
        f"No stock configuration{of} has {bound.figure} {near} {bound.shown(goal)}.",
        found=f"nearest below {listed(below)}, nearest above {listed(above)}",
        do=f"choose one of these with --target{narrower}{finer}",
    )


def _compromise(bound: Bound, bounds: Sequence[Bound], costs: Costs, dense: Dense) -> str | None:
    """What the others leave of a figure; None if they contradict each other as well."""
    cost, one = costs[bound.figure], dense[bound.figure]
    others = [other for other in bounds if other is not bound]
    beside = [
        f"{cost[values] / one:.4f} ({bound.shown(cost[values])})" for values in _beside(bound, bounds, costs, dense)
    ]
    nearest_figure = f"the nearest {bound.figure} is {' or '.join(beside)}"
    return f"with {' and '.join(other.text for other in others)} {nearest_figure}" if beside else None
