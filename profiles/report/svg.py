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
    from matplotlib.figure import Figure

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

    figure: Figure
    svg: Markup

    def __init__(self, name: str, says: str) -> None:
        self.name, self.says = name, says

    @contextlib.contextmanager
    def axes(self, width: float, height: float, columns: int = 1) -> Iterator[list[Axes]]:
        """Axes of a figure of ``width`` x ``height`` inches, side by side; the drawing ends with the block."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context(STYLE):
            self.figure = Figure(figsize=(width, height), layout="constrained")
            self.figure.patch.set_alpha(0)
            axes = [self.figure.add_subplot(1, columns, number + 1) for number in range(columns)]
            for one in axes:
                one.patch.set_alpha(0)
            yield axes
            drawn = io.StringIO()
            self.figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        self.svg = inline(drawn.getvalue(), self.name, self.says)


def inline(svg: str, name: str, says: str) -> Markup:
    """An SVG file's text as an element of a page: ids of its own, colours by role, the page's width.

    ``name`` keeps its ids apart from other drawings', ``says`` is read out where it cannot be seen.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, role in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    limit = f"max-width: {float(width[1]) * 4 / 3:.0f}px" if width else ""
    head = f'<svg class="chart" role="img" aria-label="{escape(says)}" style="{limit}"'
    svg = re.sub(r'^<svg\b((?:(?!\s(?:width|height)=)[^>])*?)\s(?:width|height)="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^(<svg[^>]*?)\s(?:width|height)="[^"]*"', r"\1", svg)
    return Markup(svg.replace("<svg", head, 1))
