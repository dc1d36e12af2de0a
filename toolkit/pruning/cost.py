"""What a configuration costs, and that cost as a polynomial of its free numbers.

Parameters and MACs of a network are sums of terms in at most two widths (a layer's inputs and outputs), so both are
polynomials of degree two in the free numbers. A few counted networks determine them exactly, and thousands of
configurations are then priced at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from toolkit.pruning.space import Config, Space, Values


@dataclass(frozen=True)
class Cost:
    """Size of one denoiser: parameters, and MACs of one call at batch 1 (attention products included)."""

    params: int
    macs: int

    def __getitem__(self, figure: str) -> float:
        return float(getattr(self, figure))


Count = Callable[[Config], Cost]
"""Counts a stock configuration; handed in by the pipeline, so that another figure can take its place."""


def price(space: Space, count: Count, figures: Iterable[str]) -> dict[str, Callable[[Values], float]]:
    """For each figure a function from values to cost, exact for any values whose cost has degree two in them."""
    points = list(_support(space))
    costs = [count(space.configure(point)) for point in points]
    scale = np.array([variable.step for variable in space.variables], dtype=np.float64)
    basis = np.array([_monomials(np.array(point) / scale) for point in points])
    weights = {figure: np.linalg.solve(basis, [cost[figure] for cost in costs]) for figure in figures}

    def polynomial(coefficients: np.ndarray) -> Callable[[Values], float]:
        return lambda values: float(_monomials(np.array(values) / scale) @ coefficients)

    return {figure: polynomial(coefficients) for figure, coefficients in weights.items()}


def _support(space: Space) -> Iterable[Values]:
    """Values that determine a polynomial of degree two: a corner, one and two steps along, one step along two axes."""
    apart = math.lcm(*(variable.step for variable in space.variables))  # levels of unequal width must stay unequal
    corner = np.array([apart * (1 + 3 * i) for i in range(len(space.variables))])
    steps = np.diag([variable.step for variable in space.variables])
    moves = [np.zeros_like(corner), *steps, *(2 * step for step in steps)]
    moves += [a + b for a, b in itertools.combinations(steps, 2)]
    return [tuple(int(value) for value in corner + move) for move in moves]


def _monomials(x: np.ndarray) -> np.ndarray:
    pairs = [x[i] * x[j] for i in range(len(x)) for j in range(i, len(x))]
    return np.array([1.0, *x, *pairs])
