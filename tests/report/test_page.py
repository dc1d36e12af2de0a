"""The page as text: whole for every mix of stages, self-contained, and its figures report.json's."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.report.example import example
from toolkit.core.run_folder import Request, RunFolder
from toolkit.report import charts, results, words
from toolkit.report.page import render
from toolkit.report.results import command

STAGES = ("prune", "recover", "evaluate", "export", "profile", "verify", "handoff")
MIXES = [mix for size in (1, 2, 6, 7) for mix in combinations(STAGES, size)]


VOID = {"meta", "link", "img", "br", "hr", "input"}


class Elements(HTMLParser):
    """Every element's name and attributes, and which were left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal figures are not drawn again: matplotlib takes longer than all the rest of a page."""
    for name, draw in inspect.getmembers(charts, inspect.isfunction):
        if draw.__module__ == charts.__name__ and not name.startswith("_"):
            monkeypatch.setattr(charts, name, partial(drawn, draw))


DRAWN: dict[str, Any] = {}


def drawn(draw: Callable[..., Any], *given: Any) -> Any:
    key = json.dumps([draw.__name__, given])
    if key not in DRAWN:
        DRAWN[key] = draw(*given)
    return DRAWN[key]


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("mix", MIXES, ids="+".join)
def test_every_mix_of_stages_makes_a_whole_page_that_names_the_missing(mix: tuple[str, ...]) -> None:
    page = render(example(*mix), {}, "")
    assert Elements(page).open == []
    for stage in ("evaluate", "export", "profile", "verify", "handoff", "prune"):
        assert (f"<code>{command(stage)}</code>" in page) == (stage not in mix)
    assert ("<svg" in page) == bool({"prune", "evaluate", "profile"} & set(mix))


@pytest.mark.usefixtures("drawn_once")
def test_nothing_is_fetched_and_nothing_runs() -> None:
    for tag, attributes in Elements(render(example(), {"pairs": b"png"}, "")).found:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)


@pytest.mark.usefixtures("drawn_once")
def test_ids_are_unique_and_what_refers_to_one_finds_it() -> None:
    page = render(example(), {}, "")
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'href="#([^"]+)"', page)) <= set(ids)


@pytest.mark.usefixtures("drawn_once")
def test_names_are_text_not_markup() -> None:
    value = example() | {"model": "<script>alert(1)</script>"}
    value["stages"]["prune"]["widths"][0]["name"] = "<b>level & 0</b>"
    page = render(value, {}, "model: '</pre><script>'")
    assert "<script" not in page and "<b>" not in page
    assert "&lt;b&gt;level &amp; 0" in page


@pytest.mark.usefixtures("drawn_once")
def test_drawings_take_their_colours_from_the_page() -> None:
    page = render(example(), {}, "")
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 7
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", "".join(drawings))) == set()
    roles = set(re.findall(r"var\(--([a-z]+)\)", "".join(drawings)))
    assert {"dense", "compressed", "floor", "ink", "muted", "grid"} == roles
    light, dark = (set(re.findall(r"--([a-z]+): #", scheme)) for scheme in page.split("prefers-color-scheme: dark")[:2])
    assert roles <= light
    assert roles <= dark


@pytest.mark.slow
def test_the_same_figures_make_the_same_page() -> None:
    assert render(example(), {}, "") == render(example(), {}, "")


@pytest.mark.slow
def test_outliers_and_parts_that_gained_nothing_are_said() -> None:
    page = render(example(), {}, "")
    assert "torch at batch 16: 2 of 100, up to 131 ms" in page
    assert "No faster than dense in torch: conv_in." in page
    assert "Too noisy to tell" not in page
    value = example()
    value["stages"]["profile"]["parts"]["parts"]["mid_block"]["speedup"]["verdict"] = "inconclusive"
    assert "Too noisy to tell: mid_block." in render(value, {}, "")


@pytest.mark.usefixtures("drawn_once")
def test_parts_by_a_runtime_s_own_profiler_stand_beside_those_of_torch() -> None:
    value = example()
    figures = value["stages"]["profile"]
    figures["runners"]["onnxruntime"]["parts"] = figures["parts"] | {"runner": "onnxruntime", "no_faster": ["conv_out"]}
    page = render(value, {}, "")
    assert "No faster than dense in torch: conv_in." in page
    assert "No faster than dense in onnxruntime: conv_out." in page
    ids = [attributes["id"] for _, attributes in Elements(page).found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert page.count("Where the time goes") == 1


def test_a_distance_below_zero_stays_in_the_drawing() -> None:
    found = example()["stages"]["evaluate"]["kernel_distance"] | {"intervals": None}
    found["floor"]["value"] = -0.445
    assert "\N{MINUS SIGN}0.4" in charts.distances(found, "kernel")


def test_older_stages_without_the_newer_figures_are_shown() -> None:
    value = example()
    profile = value["stages"]["profile"]
    del profile["parts"]
    for runner in profile["runners"].values():
        del runner["loop"], runner["open_s"]
        for cell in runner["latency"].values():
            del cell["first_call_ms"], cell["dense"]["outliers_ms"], cell["compressed"]["outliers_ms"]
    for name in ("kernel_distance", "precision", "recall", "prediction_errors"):
        del value["stages"]["evaluate"][name]
    del value["stages"]["evaluate"]["frechet_distance"]["intervals"]
    assert "SSIM" in render(value, {}, "")


@pytest.mark.slow
def test_every_machine_is_named_with_what_ran_there() -> None:
    value = example()
    here, gpu = value["machine"], {**value["machine"], "device": "cuda", "gpu": "NVIDIA H200"}
    value["machines"] = {"prune": here, "recover": gpu, "profile": here}
    page = render(value, {}, "")
    assert f"{here['processor']}, {here['cores']} cores (prune, profile)" in page and "NVIDIA H200" in page
    assert "(recover)" in page and page.count("ran here") == 2
    value["machines"] = {"prune": here, "recover": here}
    assert "(prune" not in render(value, {}, "") and "ran here" not in render(value, {}, "")


def test_a_stage_is_stale_if_it_read_another_compressed_model(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    for stage, read in (("prune", {}), ("evaluate", {"compressed": "old"}), ("export", {"compressed": "new"})):
        run.finish(Request(stage, {}, read), (), seconds=1.0)
    assert results.stale(run, "new") == ["evaluate"]


@pytest.mark.slow
def test_a_stale_stage_and_an_absent_dense_model_are_said() -> None:
    page = render(example() | {"stale": ["profile"], "dense_missing": True}, {}, "")
    assert "figures are of an earlier model" in page and "no longer at" in page


@pytest.mark.parametrize(
    ("write", "value", "said"),
    [
        (words.count, 1_112_801, "1.11 M"),
        (words.count, 34_865_152, "34.9 M"),
        (words.count, 248_514_000_000, "249 G"),
        (words.count, 999, "999"),
        (words.size, 4_469_660, "4.26 MiB"),
        (words.figure, 1719.7, "1,719.7"),
        (words.figure, 12.94, "12.9"),
        (words.figure, 1.3254, "1.33"),
        (words.figure, 0.01234, "0.0123"),
        (words.figure, 0.0, "0.00"),
        (words.duration, 59.94, "59.9 s"),
        (words.duration, 180.2, "3 min 00 s"),
        (words.duration, 7260, "2 h 01 min"),
    ],
)
def test_figures_are_written_in_three_digits(write: Callable[[float], str], value: float, said: str) -> None:
    assert write(value) == said
