"""What a configuration costs, and that cost as a polynomial of its free numbers.

Parameters and MACs of a network are sums of terms in at most two widths (a layer's inputs and outputs), so both are
polynomials of degree two in the widths; a block that may go has the width of its level at both ends. A few counted
networks determine them exactly, and thousands of configurations are then priced at once.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from profiles.macs import count_params
from profiles.recount import Recount
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.adapters.space import Config, Space, Values
from toolkit.models.build import build_model


@dataclass(frozen=True)
class Cost:
    """Size of one denoiser: parameters, and MACs of one call at batch 1 (attention products included)."""

    params: int
    macs: int
    macs_by_part: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, figure: str) -> float:
        return float(getattr(self, figure))


def by_level(parts: Mapping[str, int]) -> dict[str, int]:
    """The MACs of a network's parts by level (its way down and its way up), middle, stack of blocks, and the rest."""
    levels = max(sum(part.startswith(f"{way}_blocks.") for part in parts) for way in ("down", "up"))
    by_level: dict[str, int] = {}
    for part, macs in parts.items():
        kind, _, number = part.partition(".")
        places = {"down_blocks": lambda n: f"level {n}", "up_blocks": lambda n: f"level {levels - 1 - n}"}
        names = {"mid_block": "middle", "transformer_blocks": "transformer blocks"}
        name = places[kind](int(number)) if kind in places else names.get(kind, "input, output, time")
        by_level[name] = by_level.get(name, 0) + macs
    return dict(sorted(by_level.items()))


Count = Callable[[Config], Cost]
"""Counts a stock configuration."""


def counter(class_name: str, dense: Config, specs: Mapping[str, InputSpec]) -> Count:
    """What counts parameters and MACs of the configurations of a class; ``specs`` are the denoiser's inputs.

    No configuration is counted twice: a plan is made before a run begins, and again in it.
    """
    counted = _counted(class_name, json.dumps(dense), tuple(specs.items()))
    return lambda config: counted(json.dumps(config))


@cache
def _counted(class_name: str, dense: str, specs: tuple[tuple[str, InputSpec], ...]) -> Callable[[str], Cost]:
    inputs = example_inputs(dict(specs), batch=1, device="meta")
    recount = Recount(build_model(class_name, json.loads(dense)), inputs)

    @cache
    def counted(config: str) -> Cost:
        network = build_model(class_name, json.loads(config))
        by_part = recount(network)
        return Cost(count_params(network), sum(by_part.values()), by_part)

    return counted


def price(space: Space, count: Count, figures: Iterable[str]) -> dict[str, Callable[[Values], float]]:
    """For each figure a function from values to cost, exact for any values whose cost is a sum of ``terms``.

    There may be a step where the first width is the dense one: SDXL's added embedding has its own frequencies then.
    """
    points = list(_support(space))
    costs = [count(space.configure(point)) for point in points]
    basis = np.array([terms(space, point) for point in points])
    weights = {figure: np.linalg.solve(basis, [cost[figure] for cost in costs]) for figure in figures}

    dense, dense_cost = space.dense_values, count(space.dense)

    def priced(figure: str) -> Callable[[Values], float]:
        step = dense_cost[figure] - float(terms(space, dense) @ weights[figure])
        return lambda values: float(terms(space, values) @ weights[figure]) + step * (values[0] == dense[0])

    return {figure: priced(figure) for figure in figures}


def terms(space: Space, values: Values, unit: int = 1) -> np.ndarray:
    """Monomials of the widths up to degree two; for blocks, how many are missing times powers of their own widths.

    Widths in channels are rounded up to multiples of ``unit``.
    """
    pairs = list(zip(values, space.variables, strict=True))
    padded = {v.name: math.ceil(value / unit) * unit if v.channels else value for value, v in pairs}
    named = {variable.name: padded[variable.name] / variable.step for variable in space.variables}
    x = [named[variable.name] for variable in space.variables if variable.kind == "width"]
    terms = [1.0, *x, *(a * b for a, b in itertools.combinations_with_replacement(x, 2))]
    for value, variable in zip(values, space.variables, strict=True):
        if variable.kind == "blocks":
            powers = [1.0, *(named[width] ** power for width in variable.widths for power in (1, 2))]
            each = named[variable.per] + variable.extra if variable.per else 1.0
            terms += [(value - variable.dense) * each * power for power in powers]
    return np.array(terms)


def _support(space: Space) -> Iterable[Values]:
    """Values that determine the terms: a corner, one and two steps along, one step along two axes, one block less."""
    widths = [i for i, variable in enumerate(space.variables) if variable.kind == "width"]
    # levels of unequal width must stay unequal
    apart = math.lcm(*(space.variables[i].step for i in widths))
    corner = np.array(space.dense_values)
    beyond = space.variables[widths[0]].dense // apart if widths else 0  # a step at the dense width is no polynomial
    corner[widths] = [apart * (beyond + 1 + 3 * i) for i in range(len(widths))]
    steps = {space.variables[i].name: _along(space, i, space.variables[i].step) for i in widths}
    moves = [np.zeros_like(corner), *steps.values(), *(2 * step for step in steps.values())]
    moves += [a + b for a, b in itertools.combinations(steps.values(), 2)]
    for i, variable in enumerate(space.variables):
        if variable.kind == "blocks":
            along = [n * steps[width] for width in variable.widths for n in (1, 2)]
            moves += [_along(space, i, -1) + move for move in (np.zeros_like(corner), *along)]
    return [tuple(int(value) for value in corner + move) for move in moves]


def _along(space: Space, axis: int, by: int) -> np.ndarray:
    move = np.zeros(len(space.variables), dtype=np.int64)
    move[axis] = by
    return move
