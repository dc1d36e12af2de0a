"""What the user asks for: ``macs=0.57``, ``params=20M``, ``width=0.75``, ``latency=0.6`` or ``latency=4.0ms``."""

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


@dataclass(frozen=True)
class Target:
    """A figure and what it should be: a fraction of the dense model's, or an absolute count."""

    figure: str
    value: float
    absolute: bool

    def goal(self, dense: float) -> float:
        """The count to reach, given the dense model's."""
        return self.value if self.absolute else self.value * dense

    @property
    def tolerances(self) -> tuple[float, ...]:
        """How far off is near enough, as a fraction of the goal: the first is wanted, the last is accepted."""
        return LATENCY_TOLERANCES if self.figure == "latency" else (TOLERANCE,)

    def met_by(self, cost: float, dense: float, tolerance: float | None = None) -> bool:
        """Whether ``cost`` lies within the tolerance of the goal; without one given, the one that is accepted."""
        allowed = self.tolerances[-1] if tolerance is None else tolerance
        return abs(cost - self.goal(dense)) <= allowed * self.goal(dense)

    def shown(self, cost: float) -> str:
        """A cost of this figure in its unit."""
        return f"{cost:.3g} ms" if self.figure == "latency" else f"{round(cost):,}"


def parse_target(text: str) -> Target:
    """Read ``figure=value``; a value of at most 1 without a unit is a fraction of dense. Raises UsageError.

    Absolute latencies are milliseconds.
    """
    match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*([kMGT]|us|ms|s)?\s*", text)
    if not match:
        expected = "figure=value, such as macs=0.57, params=20M, latency=0.6 or latency=4.0ms"
        raise UsageError(f"Cannot read the target {text!r}.", expected=expected)
    figure, number, unit = match[1], match[2], match[3] or ""
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
    return Target(figure, value, absolute)
