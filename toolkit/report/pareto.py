"""Quality against images per second: which of several models and numbers of steps are worth having, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "pareto.svg"
Kind = Literal["compressed", "dense"]
COLOURS = {"compressed": "#0072b2", "dense": "#d55e00"}  # distinct for colour-blind readers (Okabe & Ito 2008)
QUIET = "#777777"


@dataclass(frozen=True)
class Point:
    """A model in a number of sampling steps: its images per second over the dense model's in all steps, and a distance.

    What is timed is the denoiser. ``speed_low`` and ``speed_high`` bound the speed if it was measured.
    """

    model: str
    kind: Kind
    steps: int
    speed: float
    distance: float
    speed_low: float
    speed_high: float

    @property
    def name(self) -> str:
        return f"{self.model}, {self.steps} step{'s' if self.steps > 1 else ''}"


def points(name: str, controls: Mapping[str, Any]) -> list[Point]:
    """The points of an evaluation's control, of the compressed model called ``name`` and then of the dense one."""
    time, whole = controls["time"], controls["all_steps"]
    of_dense = {"compressed": [time[bound] for bound in ("fraction", "high", "low")], "dense": [1.0, 1.0, 1.0]}
    names: dict[Kind, str] = {"compressed": name, "dense": "dense"}

    def point(kind: Kind, found: Mapping[str, Any]) -> Point:
        speed, low, high = (whole / (found["steps"] * each) for each in of_dense[kind])
        return Point(names[kind], kind, found["steps"], speed, found["frechet_distance"], low, high)

    return [point(kind, found) for kind in names for found in reversed(controls["curves"][kind])]


def dominated(points: Sequence[Point]) -> list[str | None]:
    """For each point the name of one that is no worse in speed and distance and better in one; None if none is."""
    return [_better(point, points) for point in points]


def _better(point: Point, points: Sequence[Point]) -> str | None:
    better = [
        other
        for other in points
        if other.speed >= point.speed
        and other.distance <= point.distance
        and (other.speed > point.speed or other.distance < point.distance)
    ]
    return min(better, key=lambda other: (other.distance, -other.speed)).name if better else None


def draw(placed: Sequence[Point], metric: str, path: Path) -> None:
    """The points as an SVG file at ``path``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dtk", "font.size": 10}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        plot(figure.add_subplot(), placed, metric, COLOURS, QUIET)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def plot(axes: Axes, placed: Sequence[Point], metric: str, colours: Mapping[str, str], quiet: str) -> None:
    """The points: filled if nothing is better, hollow if dominated; the front joined."""
    worse = dominated(placed)
    front = sorted((p for p, by in zip(placed, worse, strict=True) if by is None), key=lambda p: p.speed)
    axes.step([p.speed for p in front], [p.distance for p in front], where="pre", color=quiet, linewidth=1)
    for point, by in zip(placed, worse, strict=True):
        colour = colours[point.kind]
        reach = [[point.speed - point.speed_low], [point.speed_high - point.speed]]
        face = colour if by is None else "none"
        axes.errorbar(point.speed, point.distance, xerr=reach, fmt="o", color=colour, markerfacecolor=face)
        axes.annotate(point.name, (point.speed, point.distance), (6, 5), textcoords="offset points", fontsize=8)
    for kind, label in (("compressed", "compressed"), ("dense", "dense model, in all and in fewer steps")):
        axes.plot([], [], "o", color=colours[kind], label=label)
    axes.plot([], [], "o", color=quiet, markerfacecolor="none", label="dominated: another is faster and better")
    axes.set_xlabel("images per second of the denoiser, times the dense model's in all steps")
    axes.set_ylabel(metric)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
