"""The report in a real browser: it renders, asks for nothing, complains of nothing, and shows report.json's figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.architecture.source import ROOT
from tests.cli.conftest import FAST, dtk, with_a_short_loop
from tests.report.example import example
from tests.tiny import PLAIN, tiny_folder
from toolkit.core.files import write_json
from toolkit.core.noise import generator
from toolkit.evaluation.grid import grid
from toolkit.report.page import write

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not on PATH"),
]
SCHEMES = ("light", "dark")
WIDTHS = (1280, 390)  # a desk and a hand


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of the example, every section and a picture in it."""
    run = tmp_path_factory.mktemp("run")
    pixels = generator("test picture", 0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    (run / "evaluate").mkdir()
    grid({"dense": pixels, "compressed": pixels, "real": pixels}).save(run / "evaluate" / "pairs.png")
    write_json(run / "report.json", example())
    write(run, example())
    return run


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line on a tiny model, with stages left out."""
    place = tmp_path_factory.mktemp("real")
    tiny_folder(place / "model", **PLAIN)
    np.savez(place / "images.npz", images=generator("test data", 0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))
    run = place / "run"
    made = dtk("compress", place / "model", "--data", place / "images.npz", "-o", run, *FAST)
    assert made.code == 0, made.err
    brief = ("--runner", "torch", "--baseline", "torch", "--batch", "1,2", "--seconds", 0.1)
    profiled = dtk("profile", with_a_short_loop(run), *brief)
    assert profiled.code == 0, profiled.err
    return run


@pytest.fixture(params=["made_up", "real"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def show(browser: webdriver.Chrome, run: Path, scheme: str = "light", width: int = 1280) -> None:
    """Open the report afresh; what was logged before is dropped."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((run / "report.html").as_uri())


def requested(browser: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_asks_for_nothing_and_complains_of_nothing(browser: webdriver.Chrome, run: Path, scheme: str) -> None:
    show(browser, run, scheme)
    assert browser.get_log("browser") == []
    page, *others = requested(browser)
    assert page == (run / "report.html").as_uri()
    assert all(url.startswith("data:") for url in others)


def test_an_outside_request_would_be_seen(browser: webdriver.Chrome, made_up: Path, tmp_path: Path) -> None:
    page = (made_up / "report.html").read_text().replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>')
    (tmp_path / "report.html").write_text(page)
    show(browser, tmp_path)
    assert browser.get_log("browser"), "the page's own policy forbids it, and the browser says so"


def test_every_figure_is_that_of_report_json(browser: webdriver.Chrome, run: Path) -> None:
    show(browser, run)
    value = json.loads((run / "report.json").read_text())
    shown = browser.find_elements(By.CSS_SELECTOR, "data[data-from]")
    assert len(shown) >= 20
    for element in shown:
        place = element.get_attribute("data-from").split("/")[1:]
        expected: Any = reduce(lambda inner, key: inner[key.replace("~1", "/").replace("~0", "~")], place, value)
        assert float(element.get_attribute("value")) == expected, place
        assert read(element.get_property("textContent")) == pytest.approx(expected, rel=0.06), place


def read(text: str) -> float:
    """The number a person reads, by its own account of the units."""
    scales = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    number, _, unit = text.replace(",", "").partition(" ")
    if number.endswith("%"):
        return float(number[:-1]) / 100
    return float(number.removesuffix("x")) * scales.get(unit, 1)


def test_the_verdict_is_the_heading(browser: webdriver.Chrome, run: Path) -> None:
    show(browser, run)
    assert browser.find_element(By.ID, "verdict").text == json.loads((run / "report.json").read_text())["verdict"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pictures_show_and_nothing_leaves_the_screen(
    browser: webdriver.Chrome, made_up: Path, scheme: str, width: int
) -> None:
    show(browser, made_up, scheme, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawings = browser.find_elements(By.CSS_SELECTOR, "svg.chart")
    assert len(drawings) == 7
    assert all(one.size["height"] > 60 and one.size["width"] >= 600 for one in drawings)
    loaded = "return [...document.images].map(one => one.complete && one.naturalWidth > 0)"
    assert browser.execute_script(loaded) == [True]


CONTRAST = """
const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
  return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
const page = light(getComputedStyle(document.body).backgroundColor);
const contrast = colour => { const it = light(colour);
  return (Math.max(page, it) + 0.05) / (Math.min(page, it) + 0.05) };
const style = one => getComputedStyle(one);
const words = [...document.querySelectorAll('h1, p, th, td, summary')].map(one => style(one).color);
const letters = [...document.querySelectorAll('svg text')].map(one => style(one).fill);
const marks = ['dense', 'compressed', 'floor'].map(role => {
  const probe = document.createElement('i'); probe.style.color = `var(--${role})`;
  document.body.append(probe); return style(probe).color });
return { words: Math.min(...words.concat(letters).map(contrast)), marks: Math.min(...marks.map(contrast)) }
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_words_and_marks_stand_out(browser: webdriver.Chrome, made_up: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for text, 3 to 1 for what a drawing says."""
    show(browser, made_up, scheme)
    found = browser.execute_script(CONTRAST)
    assert found["words"] >= 4.5
    assert found["marks"] >= 3


def test_the_schemes_differ(browser: webdriver.Chrome, made_up: Path) -> None:
    grounds = []
    for scheme in SCHEMES:
        show(browser, made_up, scheme)
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_a_real_report_fits_the_published_schema(real: Path) -> None:
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads((real / "report.json").read_text()))
