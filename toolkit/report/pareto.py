"""Quality against latency: which of several models are worth having, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.core.files import replacing

Kind = Literal["compressed", "dense"]
COLOURS = {"compressed": "#0072b2", "dense": "#d55e00"}  # distinct for colour-blind readers (Okabe & Ito 2008)


@dataclass(frozen=True)
class Point:
    """A model in a number of sampling steps: the time of an image over the dense model's in all steps, and a distance.

    ``cost_low`` and ``cost_high`` bound the cost if it was measured; smaller is better in both figures.
    """

    name: str
    kind: Kind
    steps: int
    cost: float
    distance: float
    cost_low: float
    cost_high: float


def dominated(points: Sequence[Point]) -> list[str | None]:
    """For each point the name of one that is no worse in cost and distance and better in one; None if none is."""
    return [_better(point, points) for point in points]


def _better(point: Point, points: Sequence[Point]) -> str | None:
    better = [
        other
        for other in points
        if other.cost <= point.cost
        and other.distance <= point.distance
        and (other.cost < point.cost or other.distance < point.distance)
    ]
    return min(better, key=lambda other: (other.distance, other.cost)).name if better else None


def draw(points: Sequence[Point], metric: str, path: Path) -> None:
    """The points as an SVG at ``path``: filled if nothing is better, hollow if dominated; the front joined."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dtk", "font.size": 10}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        worse = dominated(points)
        front = sorted((p for p, by in zip(points, worse, strict=True) if by is None), key=lambda p: p.cost)
        axes.step([p.cost for p in front], [p.distance for p in front], where="post", color="#999999", linewidth=1)
        for point, by in zip(points, worse, strict=True):
            colour = COLOURS[point.kind]
            reach = [[point.cost - point.cost_low], [point.cost_high - point.cost]]
            face = colour if by is None else "white"
            axes.errorbar(point.cost, point.distance, xerr=reach, fmt="o", color=colour, markerfacecolor=face)
            axes.annotate(point.name, (point.cost, point.distance), (6, 5), textcoords="offset points", fontsize=8)
        for kind, label in (("compressed", "compressed"), ("dense", "dense model, in all and in fewer steps")):
            axes.plot([], [], "o", color=COLOURS[kind], label=label)
        axes.plot(
            [], [], "o", color="#666666", markerfacecolor="white", label="dominated: another is faster and better"
        )
        axes.set_xlabel("time of an image, of the dense model's")
        axes.set_ylabel(metric)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
