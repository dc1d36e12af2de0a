"""What the user asks for: bounds, one a figure, joined by commas.

``macs=0.57`` (about), ``params<=20M`` (at most), ``width=0.75``, ``latency<=4.0ms``, ``latency<=0.6,params<=0.7``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolkit.core.errors import UsageError, unknown

UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
FIGURES = ("macs", "params", "width", "latency")
TOLERANCE = 0.02
LATENCY_TOLERANCES = (0.03, 0.05)
"""What is measured is sought well inside its tolerance first, so that measured again it still lies within."""
ROUNDING = 1e-9  # prices are polynomials in floating point
BOUND = re.compile(r"(\w+)\s*(<=|=)\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*([kMGT]|us|ms|s)?")


@dataclass(frozen=True)
class Bound:
    """A figure and what it should be, about or at most: a fraction of the dense model's, or an absolute count."""

    text: str
    figure: str
    value: float
    absolute: bool
    at_most: bool

    def goal(self, dense: float) -> float:
        """The count to reach, given the dense model's."""
        return self.value if self.absolute else self.value * dense

    @property
    def tolerances(self) -> tuple[float, ...]:
        """How far off is near enough, as a fraction of the goal: the first is wanted, the last is accepted."""
        if self.at_most:
            return (ROUNDING,)
        return LATENCY_TOLERANCES if self.figure == "latency" else (TOLERANCE,)

    def met_by(self, cost: float, dense: float, tolerance: float | None = None) -> bool:
        """Whether ``cost`` lies within the tolerance of the goal; without one given, the one that is accepted."""
        allowed = self.tolerances[-1] if tolerance is None else tolerance
        off = cost - self.goal(dense)
        return (off if self.at_most else abs(off)) <= allowed * self.goal(dense)

    def shown(self, cost: float) -> str:
        """A cost of this figure in its unit."""
        return {"latency": f"{cost:.3g} ms", "width": f"{cost:.3g} of dense"}.get(self.figure, f"{round(cost):,}")


@dataclass(frozen=True)
class Target:
    """All that the pruned model has to meet."""

    bounds: tuple[Bound, ...]

    def bound(self, figure: str) -> Bound | None:
        """The bound of a figure; None if it is free."""
        return next((bound for bound in self.bounds if bound.figure == figure), None)


def parse_target(text: str) -> Target:
    """Read ``figure=value`` or ``figure<=value``, several with commas between them.

    A value of at most 1 without a unit is a fraction of dense; absolute latencies are milliseconds. Raises UsageError.
    """
    bounds = tuple(_parse_bound(part.strip()) for part in text.split(","))
    figures = [bound.figure for bound in bounds]
    if twice := sorted({figure for figure in figures if figures.count(figure) > 1}):
        raise UsageError(
            f"The target {text!r} bounds {twice[0]} twice.",
            expected="one bound a figure; a sweep separates its targets by semicolons if any has several bounds",
        )
    return Target(bounds)


def split_targets(text: str) -> list[str]:
    """The targets of a list: separated by semicolons if it has any, as a comma then joins bounds, else by commas."""
    return [target.strip() for target in text.split(";" if ";" in text else ",") if target.strip()]


def _parse_bound(text: str) -> Bound:
    match = BOUND.fullmatch(text)
    if not match:
        raise UsageError(
            f"Cannot read the target {text!r}.",
            expected="figure=value or figure<=value, such as macs=0.57, params<=20M, latency<=0.6 or latency=4.0ms",
        )
    figure, relation, number, unit = match[1], match[2], match[3], match[4] or ""
    if figure not in FIGURES:
        raise unknown("target", figure, list(FIGURES))
    units = {"": 1.0} | MILLISECONDS if figure == "latency" else UNITS
    if unit not in units:
        raise UsageError(f"The target {text!r} has the wrong unit.", expected=f"none, or one of {', '.join(units)[2:]}")
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise UsageError(f"Cannot read the number in the target {text!r}.", expected="a number such as 0.57") from None
    absolute = bool(unit) or (value > 1 and figure != "latency")
    if value <= 0 or (not absolute and value > 1) or (figure == "width" and absolute):
        expected = "a fraction above 0 and at most 1 of dense" + (", or 4.0ms" if figure == "latency" else "")
        raise UsageError(f"The target {text!r} is out of range.", expected=expected)
    return Bound(text, figure, value, absolute, relation == "<=")
