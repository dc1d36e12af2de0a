"""What the user asks for: ``macs=0.57``, ``params=20M``, ``width=0.75``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolkit.errors import UsageError, unknown

UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
FIGURES = ("macs", "params", "width")
TOLERANCE = 0.02


@dataclass(frozen=True)
class Target:
    """A figure and what it should be: a fraction of the dense model's, or an absolute count."""

    figure: str
    value: float
    absolute: bool

    def goal(self, dense: float) -> float:
        """The count to reach, given the dense model's."""
        return self.value if self.absolute else self.value * dense

    def met_by(self, cost: float, dense: float) -> bool:
        """Whether ``cost`` lies within the tolerance of the goal."""
        return abs(cost - self.goal(dense)) <= TOLERANCE * self.goal(dense)


def parse_target(text: str) -> Target:
    """Read ``figure=value``; a value of at most 1 without a unit is a fraction of dense. Raises UsageError."""
    match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*([kMGT]?)\s*", text)
    if not match:
        raise UsageError(f"Cannot read the target {text!r}.", expected="figure=value, such as macs=0.57 or params=20M")
    figure, number, unit = match.groups()
    if figure not in FIGURES:
        raise unknown("target", figure, list(FIGURES))
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        raise UsageError(f"Cannot read the number in the target {text!r}.", expected="a number such as 0.57") from None
    absolute = bool(unit) or value > 1
    if value <= 0 or (figure == "width" and absolute):
        raise UsageError(f"The target {text!r} is out of range.", expected="a fraction above 0 and at most 1 of dense")
    return Target(figure, value, absolute)
