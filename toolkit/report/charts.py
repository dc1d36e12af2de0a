"""The drawings of a report, each of one part of report.json; None if that part holds nothing to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from toolkit.report.pareto import plot, points
from toolkit.report.svg import COMPRESSED, DENSE, FLOOR, GRID, MUTED, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WIDTH, ROW, FRAME = 9.2, 0.33, 0.8  # inches: the page, one row of a chart, and what the axes take
BAR = 0.36
WORTH_DRAWING = 0.01  # of the whole


def widths(levels: list[dict[str, Any]]) -> Markup | None:
    """Channels of each level: the dense model's as an outline, what was kept filled in."""
    if not levels:
        return None
    chart = Chart("widths", "Channels of each level, dense and compressed")
    with chart.axes(WIDTH, 0.3 + 1.2 * ROW * len(levels)) as axes:
        rows = range(len(levels))
        dense, achieved = ([level[name] for level in levels] for name in ("dense", "achieved"))
        axes.barh(rows, dense, height=0.62, facecolor="none", edgecolor=DENSE, linewidth=1.3, linestyle=(0, (3, 2)))
        axes.barh(rows, achieved, height=0.62, color=COMPRESSED)
        for row, (before, after) in enumerate(zip(dense, achieved, strict=True)):
            axes.annotate(f"{after} of {before}", (before, row), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(rows, [level["name"] for level in levels])
        axes.set_ylim(len(levels) - 0.5, -0.5)
        axes.set_xlim(0, 1.2 * max(dense))
        axes.set_xticks([])
        _only_x(axes)
    return chart.svg


def speedups(profile: dict[str, Any]) -> Markup | None:
    """The speed-up of every runner and batch size with its interval, with lines at 1 and at the MACs ratio."""
    cells = [
        (f"{name}, batch {size}", cell["speedup"])
        for name, found in profile["runners"].items()
        for size, cell in found["latency"].items()
    ]
    if not cells:
        return None
    chart = Chart("speedups", "Speed-up of each runner and batch size with its interval")
    with chart.axes(WIDTH, FRAME + ROW * len(cells)) as axes:
        ratio, values = profile["ratios"]["macs"], [found["value"] for _, found in cells]
        right = 1.15 * max(ratio, *values)
        axes.axvline(1, color=MUTED, linewidth=1)
        axes.axvline(ratio, color=FLOOR, linewidth=1.4, linestyle="--")
        offset: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate("MACs ratio", (ratio, -0.8), (6, 0), color=FLOOR, **offset)
        axes.annotate("equal", (1, -0.8), (-6, 0), color=MUTED, ha="right", **offset)
        for row, (_, found) in enumerate(cells):
            _interval(axes, row, found, right)
        axes.set_yticks(range(len(cells)), [name for name, _ in cells])
        axes.set_xlim(min(0.8, 0.9 * min(values)), right)
        axes.set_ylim(len(cells) - 0.5, -1.2)
        axes.set_xlabel("times faster than dense (95 % interval)")
        _only_x(axes)
    return chart.svg


def _interval(axes: Axes, row: int, speedup: dict[str, Any], right: float) -> None:
    """A dot with its interval, hollow and pale if the run was too noisy; cut at the edge if it is very wide."""
    sure = speedup["verdict"] != "inconclusive"
    colour = COMPRESSED if sure else MUTED
    axes.plot([speedup["low"], min(speedup["high"], right)], [row, row], color=colour, linewidth=2.4, alpha=0.55)
    axes.plot([speedup["value"]], [row], "o", color=colour, markerfacecolor=colour if sure else "none", markersize=7)


def parts(models: dict[str, Any]) -> Markup | None:
    """MACs of each part of the network in both models."""
    dense, compressed = (
        {part: sum(kinds.values()) for part, kinds in models[which]["macs_by_part"].items()}
        for which in ("dense", "compressed")
    )
    return _pairs("parts", "MACs of each part of the network", dense, compressed, "million MACs at batch 1", 1e6)


def blocks(profile: dict[str, Any]) -> Markup | None:
    """Milliseconds of each part of the network in both models; parts that take next to nothing are left out.

    One drawing a runner: ``found`` names it.
    """
    parts = profile["parts"]
    least = WORTH_DRAWING * sum(part["dense_ms"] for part in parts.values())
    names = [name for name, part in parts.items() if part["dense_ms"] >= least]
    dense, compressed = ({name: parts[name][f"{which}_ms"] for name in names} for which in ("dense", "compressed"))
    runner = profile["runner"]
    name, where = ("blocks", "eager torch") if runner == "torch" else (f"blocks-{runner}", f"{runner}, by its profiler")
    unit = f"ms in {where}, at batch {profile['batch']}"
    return _pairs(name, "Time of each part of the network", dense, compressed, unit, 1.0)


def _pairs(
    name: str, says: str, dense: dict[str, float], compressed: dict[str, float], unit: str, scale: float
) -> Markup | None:
    names = list(dense)
    if not names:
        return None
    chart = Chart(name, says)
    with chart.axes(WIDTH, FRAME + ROW * len(names)) as axes:
        for side, (values, colour, label) in enumerate(
            ((dense, DENSE, "dense"), (compressed, COMPRESSED, "compressed"))
        ):
            rows = [row + (side - 0.5) * BAR for row in range(len(names))]
            axes.barh(rows, [values.get(part, 0) / scale for part in names], BAR, color=colour, label=label)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(unit)
        axes.legend(loc="best")
        _only_x(axes)
    return chart.svg


def distances(evaluation: dict[str, Any], name: str) -> Markup | None:
    """A distance of floor, dense and compressed: with its interval over blocks if there is one, else the value."""
    rows = [(side, colour) for side, colour in _SIDES if side in evaluation]
    by_block = evaluation.get("intervals") or {}
    chart = Chart(name, f"{evaluation['dense']['metric']} of the two models and of real images")
    with chart.axes(WIDTH, FRAME + ROW * len(rows)) as axes:
        for row, (side, colour) in enumerate(rows):
            spread = by_block.get(side)
            middle = spread["mean"] if spread else evaluation[side]["value"]
            if spread:
                axes.plot([spread["low"], spread["high"]], [row, row], color=colour, linewidth=2.4, alpha=0.55)
            axes.plot([middle], [row], "o", color=colour, markersize=8)
        axes.set_yticks(range(len(rows)), [_NAMES[side] for side, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        count = by_block["count_per_block"] if by_block else evaluation["dense"]["count"]
        blocks_of = f"{by_block['blocks']} blocks of {count:,} images" if by_block else f"{count:,} images"
        axes.set_xlabel(f"{evaluation['dense']['metric']}, {blocks_of}; less is better")
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))  # an unbiased kernel distance can lie below zero
        _only_x(axes)
    return chart.svg


def controls(evaluation: dict[str, Any]) -> Markup:
    """Quality against images per second of both models in all and in fewer steps."""
    chart = Chart("controls", "Distance against images per second, dense and compressed")
    with chart.axes(WIDTH, 4.2) as axes:
        metric, placed = evaluation["frechet_distance"]["dense"]["metric"], points("compressed", evaluation["controls"])
        plot(axes, placed, metric, {"dense": DENSE, "compressed": COMPRESSED}, MUTED)
    return chart.svg


_SIDES = (("floor", FLOOR), ("dense", DENSE), ("compressed", COMPRESSED))
_NAMES = {"floor": "real against real", "dense": "dense", "compressed": "compressed"}


def errors(curves: dict[str, Any]) -> Markup | None:
    """The error of the prediction along the trajectory, on a logarithmic scale."""
    chart = Chart("errors", "Mean squared error of the prediction at each timestep")
    with chart.axes(WIDTH, 3.1) as axes:
        for curve, colour, style, label in (
            ("dense", DENSE, "-", "dense, against the training target"),
            ("compressed", COMPRESSED, "-", "compressed, against the training target"),
            ("compressed_against_dense", FLOOR, "--", "compressed, against dense"),
        ):
            axes.plot(curves["timesteps"], curves[curve], style, color=colour, linewidth=2, label=label)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.tick_params(axis="y", labelcolor=MUTED, length=0)
        axes.set_xlabel(f"timestep (0 = clean image); mean over {curves['images']} images")
        axes.legend(loc="best")
    return chart.svg


def stopping(curve: dict[str, Any]) -> Markup | None:
    """The error on held-out images against the steps of recovery so far."""
    chart = Chart("stopping", "Error of the prediction on held-out images against recovery steps")
    with chart.axes(WIDTH, 2.6) as axes:
        axes.plot(curve["steps"], curve["errors"], "o-", color=COMPRESSED, linewidth=2, markersize=4)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.set_xlabel(f"recovery steps; mean squared error over {curve['images']} held-out images")
    return chart.svg


def _only_x(axes: Axes) -> None:
    """A grid along x, names along y, and no frame."""
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
