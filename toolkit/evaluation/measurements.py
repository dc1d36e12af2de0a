"""A measurement is stored with its count, extractor and reference, and only like is compared with like."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from toolkit.core.errors import DtkError


@dataclass(frozen=True)
class Setup:
    """What a distance depends on besides the images judged."""

    count: int  # images per side
    extractor: str
    extractor_sha256: str
    reference_sha256: str


@dataclass(frozen=True)
class Measurement:
    """A value with the metric's name and the conditions it was measured under."""

    metric: str
    value: float
    conditions: Setup

    def to_json(self) -> dict[str, Any]:
        return {"metric": self.metric, "value": self.value, **asdict(self.conditions)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Measurement:
        """The figure that ``to_json`` wrote; further keys are left aside."""
        conditions = Setup(**{name: record[name] for name in Setup.__annotations__})
        return cls(record["metric"], record["value"], conditions)


def difference(first: Measurement, second: Measurement) -> Measurement:
    """``first`` minus ``second``; raises DtkError unless metric and conditions are the same."""
    check_comparable(first, second)
    return replace(first, value=first.value - second.value)


def check_comparable(first: Measurement, second: Measurement) -> None:
    """Raise DtkError if two figures cannot be compared, naming what differs."""
    one, other = (figure.to_json() | {"value": None} for figure in (first, second))
    differing = [name for name in one if one[name] != other[name]]
    if differing:
        raise DtkError(
            "These figures cannot be compared: a distance depends on the count, the extractor and the reference.",
            found="; ".join(f"{name} {one[name]} against {other[name]}" for name in differing),
            expected="figures measured alike",
            do="evaluate both again with the same settings",
        )
