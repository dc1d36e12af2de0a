"""The page: report.json's value through a template, with its charts and pictures inlined."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from toolkit.core.files import write_text
from toolkit.report import charts, words
from toolkit.report.headline import facts, launch_bound, outlying, refused, unclear

HERE = Path(__file__).parent
PICTURES = {"pairs": "evaluate/pairs.png", "nearest": "evaluate/nearest.png"}


def write(run: Path, value: dict[str, Any]) -> Path:
    """Write RUN/report.html for the value of RUN/report.json, with what there is of recipe and pictures."""
    pictures = {name: (run / place).read_bytes() for name, place in PICTURES.items() if (run / place).is_file()}
    recipe = run / "recipe.yaml"
    page = render(value, pictures, recipe.read_text(encoding="utf-8") if recipe.is_file() else "")
    write_text(run / "report.html", page)
    return run / "report.html"


def render(value: dict[str, Any], pictures: Mapping[str, bytes], recipe: str) -> str:
    """The page as one file: no script, nothing fetched. ``pictures`` are PNG files by name, ``recipe`` is YAML."""
    return _template().render(
        show=shower(value),
        value=value,
        stages=value["stages"],
        facts=facts(value["stages"]),
        pictures={name: _inlined(picture) for name, picture in pictures.items()},
        recipe=recipe,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(words, name) for name in ("duration", "machines", "places", "verdict")}
    environment.filters |= {"launch_bound": launch_bound, "outlying": outlying, "refused": refused, "unclear": unclear}
    environment.globals |= {"charts": charts}
    return environment.get_template("page.html.j2")


def shower(value: dict[str, Any]) -> Callable[..., Markup]:
    """A function that writes the figure at a place of ``value``, formatted for people, with the exact one next to it.

    A place is keys, and tuples of keys for templates that say the same beginning more than once.
    """

    def show(*parts: str | tuple[str, ...], style: str = "{:,}") -> Markup:
        place = [key for part in parts for key in (part if isinstance(part, tuple) else (part,))]
        exact: Any = reduce(lambda inner, key: inner[key], place, value)
        written = style.format(exact) if "{" in style else getattr(words, style)(exact)
        pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in place)  # RFC 6901
        return Markup('<data value="{}" data-from="{}">{}</data>').format(exact, pointer, written)

    return show


def _inlined(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()
