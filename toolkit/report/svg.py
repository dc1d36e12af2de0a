"""Charts of matplotlib as inline SVG whose colours are the page's, so that one drawing reads well in light and dark.

Each role a colour can have is drawn in a stand-in that is then replaced by the page's CSS variable; letters stay text.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DENSE, COMPRESSED, FLOOR, INK, MUTED, GRID = (f"#0102{number:02x}" for number in range(0xA0, 0xA6))
ROLES = {DENSE: "dense", COMPRESSED: "compressed", FLOOR: "floor", INK: "ink", MUTED: "muted", GRID: "grid"}
STYLE: dict[Any, Any] = {  # rcParams, whose keys matplotlib types one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "dtk",  # the same figures, the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


class Chart:
    """A drawing in progress: draw inside ``with chart.axes(...)``; then ``chart.svg`` is what came out."""

    svg: Markup

    def __init__(self, name: str, says: str) -> None:
        self.name, self.says = name, says

    @contextlib.contextmanager
    def axes(self, width: float, height: float) -> Iterator[Axes]:
        """The axes of a figure of ``width`` x ``height`` inches; the drawing ends with the block."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context(STYLE):
            figure = Figure(figsize=(width, height), layout="constrained")
            axes = figure.add_subplot()
            for ground in (figure.patch, axes.patch):
                ground.set_alpha(0)
            yield axes
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
        self.svg = inline(drawn.getvalue(), self.name, self.says)


def inline(svg: str, name: str, says: str) -> Markup:
    """An SVG file's text as an element of a page: ids of its own, colours by role, as wide as the page lets it be.

    ``name`` keeps its ids apart from other drawings', ``says`` is read out if it cannot be seen.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, role in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    head, _, drawing = svg.removeprefix("<svg").partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    # matplotlib escapes the text it draws
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(says)}"{head}>{drawing}')
