"""Latency of a configuration as a cost, from a few that were measured whole.

A layer takes a launch, time by the channels it reads and writes, and time by the product of the two: latency is about
a polynomial of the same terms as MACs, with no negative coefficient, in widths that are padded to what the runner's
vector or tensor unit takes at once. A few measured networks determine it, the unit included. It only points the solver
at candidates: these are measured whole, what was measured is the cost from then on, and the solver asks again until it
points at nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median

import numpy as np
from scipy.optimize import nnls

from profiles.latency_table import Timing
from toolkit.adapters.space import Config, Space, Values
from toolkit.core.errors import UnreachableError
from toolkit.core.progress import Progress, silent
from toolkit.pruning.cost import terms
from toolkit.pruning.targets import LATENCY_TOLERANCES
from toolkit.runners.base import runner_reads

SPARE = 2  # measured networks beyond those that determine the polynomial
MOST_FINALISTS = 32
VECTOR, WIDE_VECTOR, TENSOR_CORES = 16, 32, 64
"""Channels that are computed at once: 64 bytes of float32, an AVX-512 register; 64 bytes of bf16 or fp16, a register or
a row of an AMX tile; and what NVIDIA's Convolutional Layers User's Guide advises ("divisible by at least 64")."""
UNITS = (1, VECTOR, WIDE_VECTOR, TENSOR_CORES)
PRIOR = 1e-6  # of the design's information matrix, so that it can be inverted from the start


Measure = Callable[[Config], Timing]
"""Measures a stock configuration, or reads what was measured before; handed in by the pipeline."""


class LatencyCost:
    """Milliseconds of a configuration: as measured if it was measured, else as the polynomial predicts."""

    def __init__(self, space: Space, measure: Measure, progress: Progress = silent) -> None:
        self.space, self._measure, self._progress = space, measure, progress
        self.timings: dict[Values, Timing] = {}
        self.surprises: dict[Values, float] = {}
        """Of each finalist, how far off its prediction was when it was measured, as a fraction."""
        self.unit = 1
        """The multiple that widths are padded to, as far as the measured networks tell."""
        self._rows = {unit: rows_of(space, unit) for unit in UNITS}
        self._take(design(space), "latency table")

    @property
    def dense_ms(self) -> float:
        """The dense model's latency: the median over all it was measured interleaved with."""
        return median(timing.dense_ms for timing in self.timings.values())

    def __call__(self, values: Values) -> float:
        return self.fraction(values) * self.dense_ms

    def fraction(self, values: Values) -> float:
        """Latency over the dense model's."""
        if values == self.space.dense_values:
            return 1.0
        return self.timings[values].fraction if values in self.timings else self.predicted(values)

    def predicted(self, values: Values) -> float:
        """The fraction as the polynomial has it."""
        return float(self._rows[self.unit][values] @ self._coefficients)

    def settle(self, finalists: Iterable[Values]) -> bool:
        """Measure those that were not, and tell whether any was.

        Raises UnreachableError if noise hides the answer.
        """
        dense = self.space.dense_values
        new = [values for values in dict.fromkeys(finalists) if values not in self.timings and values != dense]
        if len(self.surprises) + len(new) > MOST_FINALISTS:
            raise UnreachableError(
                "The latencies measured here do not settle.",
                found=f"{MOST_FINALISTS} configurations that were predicted to meet the target and measured otherwise",
                do="measure on a quieter machine, or use macs= or width=",
            )
        predicted = {values: self.predicted(values) for values in new}
        self._take(new, "latency finalists")
        for values in new:
            self.surprises[values] = predicted[values] / self.timings[values].fraction - 1
        for values in finalists:
            if values != dense:
                refuse_noise(self.timings[values])
        return bool(new)

    def _take(self, chosen: Iterable[Values], work: str) -> None:
        chosen = list(chosen)
        if not chosen:
            return
        self._progress(work, 0, len(chosen))
        for done, values in enumerate(chosen, start=1):
            self.timings[values] = self._measure(self.space.configure(values))
            self._progress(work, done, len(chosen))
        self._fit()

    def _fit(self) -> None:
        """The unit that leaves the least misfit, and its polynomial; that dense is 1 is known, not measured."""
        known = {self.space.dense_values: 1.0} | {values: timing.fraction for values, timing in self.timings.items()}
        fits = {unit: fit(rows, known) for unit, rows in self._rows.items()}
        self.unit = min(UNITS, key=lambda unit: (round(fits[unit][1], 9), unit))
        self._coefficients = fits[self.unit][0]


def fit(rows: Mapping[Values, np.ndarray], fractions: Mapping[Values, float]) -> tuple[np.ndarray, float]:
    """The coefficients of the terms ``rows``, by least squares of the relative errors, and what is left of those."""
    relative = np.array([rows[values] / fraction for values, fraction in fractions.items()])
    coefficients, misfit = nnls(relative, np.ones(len(relative)))
    return coefficients, float(misfit)


def stated_unit(runner: str, dtype: str) -> int:
    """The multiple that widths are taken to be padded to where no latency was measured."""
    if runner_reads(runner) == "engine":
        return TENSOR_CORES
    return VECTOR if dtype == "fp32" else WIDE_VECTOR


def rows_of(space: Space, unit: int = 1) -> dict[Values, np.ndarray]:
    """The terms of the polynomial for every configuration, each term scaled to lie within 1."""
    every = list(dict.fromkeys((*space, space.dense_values)))
    design_matrix = np.array([terms(space, values, unit) for values in every])
    scale = np.abs(design_matrix).max(axis=0)
    return dict(zip(every, design_matrix / np.where(scale > 0, scale, 1.0), strict=True))


def design(space: Space) -> list[Values]:
    """The configurations to measure: few that determine the polynomial well everywhere.

    Each is the one whose prediction is the most uncertain given those before (greedy D-optimal design: Wynn 1970).
    """
    known = rows_of(space)
    dense = known.pop(space.dense_values)
    if not known:
        return []
    every, rows = list(known), np.array(list(known.values()))
    inverse = np.linalg.inv(PRIOR * np.eye(len(dense)) + np.outer(dense, dense))
    chosen: list[int] = []
    for _ in range(min(len(every), len(dense) - 1 + SPARE)):
        uncertainty = np.einsum("ni,ij,nj->n", rows, inverse, rows)
        uncertainty[chosen] = -np.inf
        chosen.append(int(np.argmax(uncertainty)))
        gain = inverse @ rows[chosen[-1]]
        inverse -= np.outer(gain, gain) / (1 + rows[chosen[-1]] @ gain)
    return [every[index] for index in chosen]


def noise(timing: Timing) -> float:
    """How far the interval reaches from the measured fraction, relative to it."""
    return max(timing.high - timing.fraction, timing.fraction - timing.low) / timing.fraction


def refuse_noise(timing: Timing) -> None:
    """Raise UnreachableError if the interval is wider than the target's tolerance: nothing could be said."""
    if not noise(timing) <= LATENCY_TOLERANCES[-1]:
        raise UnreachableError(
            f"This machine is too noisy to meet a latency within {LATENCY_TOLERANCES[-1]:.0%}.",
            found=f"{timing.fraction:.3f} of the dense model's latency, but anything from {timing.low:.3f} to "
            f"{timing.high:.3f} is as likely",
            do="stop what else runs here, or measure a larger --batch; what was measured well is kept",
        )
