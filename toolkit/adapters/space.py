"""The stock configurations a model can be pruned to: a few free numbers, each with its choices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Config = dict[str, Any]
Values = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """A free number of a configuration: a level's width, a number of norm groups, or of blocks.

    ``choices`` ascend and end with ``dense``; ``step`` divides every one of them but possibly ``dense``. Of a variable
    of blocks, ``widths`` names those that set their widths; there are as many of it as the value of the variable
    ``per`` and ``extra`` more ("": always equally many). ``channels``: whether its value is a number of channels.
    """

    name: str
    dense: int
    step: int
    choices: tuple[int, ...]
    kind: Literal["width", "blocks"] = "width"
    widths: tuple[str, ...] = ()
    per: str = ""
    extra: int = 0
    channels: bool = False

    def nearest(self, fraction: float) -> int:
        """The choice nearest to a fraction of the dense value; of two equally near ones the larger."""
        return min(self.choices, key=lambda choice: (abs(choice - fraction * self.dense), -choice))


@dataclass(frozen=True)
class Space:
    """The stock configurations an adapter can reach from a dense one."""

    dense: Config
    variables: tuple[Variable, ...]
    configure: Callable[[Values], Config]
    """The configuration with these values; the dense one, unchanged, for the dense values."""
    allows: Callable[[Values], bool]
    """Whether the values keep the structure (levels of equal width stay equal, of unequal width unequal)."""

    @property
    def dense_values(self) -> Values:
        return tuple(variable.dense for variable in self.variables)

    def __iter__(self) -> Iterator[Values]:
        """Every reachable combination."""
        return (v for v in itertools.product(*(variable.choices for variable in self.variables)) if self.allows(v))

    def widest(self, values: Values) -> float:
        """The largest fraction of its dense width that any level keeps."""
        return max(self._fractions(values))

    def spread(self, values: Values) -> float:
        """How unevenly the widths are cut: the largest fraction of dense less the smallest; 0 is uniform."""
        fractions = self._fractions(values)
        return max(fractions) - min(fractions)

    def _fractions(self, values: Values) -> list[float]:
        pairs = zip(values, self.variables, strict=True)
        return [value / variable.dense for value, variable in pairs if variable.kind == "width"] or [1.0]

    def removed_blocks(self, values: Values) -> int:
        """How many blocks the values leave out."""
        return sum(v.dense - value for value, v in zip(values, self.variables, strict=True) if v.kind == "blocks")


def multiples(dense: int, step: int, least: float) -> tuple[int, ...]:
    """The multiples of ``step`` from ``least`` x ``dense`` up to dense, and dense itself."""
    first = max(step, math.ceil(least * dense / step - 1e-9) * step)
    return (*range(first, dense, step), dense)
