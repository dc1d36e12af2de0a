"""What is worth having: held against every pair, and drawn."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from toolkit.report.pareto import Point, dominated, draw, points


def point(name: str, speed: float, distance: float, kind: str = "compressed") -> Point:
    return Point(name, kind, 20, speed, distance, 0.95 * speed, 1.05 * speed)  # type: ignore[arg-type]


def test_the_front_by_hand() -> None:
    placed = [point("dense", 1.0, 10), point("good", 2.0, 11), point("bad", 1.7, 12), point("worst", 1.1, 30)]
    assert dominated(placed) == [None, None, "good, 20 steps", "good, 20 steps"]
    assert dominated([point("a", 1, 1), point("b", 1, 1)]) == [None, None], "equal points do not exclude each other"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_what_is_not_dominated_is_a_staircase_and_the_rest_lies_behind_it(places: list[tuple[int, int]]) -> None:
    placed = [point(str(number), *place) for number, place in enumerate(places)]
    worse = dominated(placed)
    front = sorted({(p.speed, p.distance) for p, by in zip(placed, worse, strict=True) if by is None})
    assert front
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(front))
    by_name = {p.name: (p.speed, p.distance) for p in placed}
    assert all(by_name[by] in front for by in worse if by is not None)


def test_the_picture_names_every_point_and_fills_the_front(tmp_path: Path) -> None:
    placed = [point("dense", 1.0, 10, "dense"), point("latency-0.5", 2.0, 11), point("macs-0.6", 1.7, 12)]
    draw(placed, "FD (EfficientNet-Lite0@64)", tmp_path / "pareto.svg")
    draw(placed, "FD (EfficientNet-Lite0@64)", tmp_path / "again.svg")
    text = (tmp_path / "pareto.svg").read_text()
    assert text == (tmp_path / "again.svg").read_text()
    words = "".join(ElementTree.fromstring(text).itertext())
    assert all(p.name in words for p in placed)
    assert "FD (EfficientNet-Lite0@64)" in words and "dominated" in words


def test_a_control_gives_the_speed_of_both_models_in_every_number_of_steps() -> None:
    """A call takes 0.5 of a dense one, 0.4 to 0.8: twice the images per second, and in half of the steps four times."""
    curves = {
        "dense": [{"steps": 5, "frechet_distance": 9.0}, {"steps": 25, "frechet_distance": 3.0}],
        "compressed": [{"steps": 1, "frechet_distance": 5.0}, {"steps": 20, "frechet_distance": 4.0}],
    }
    time = {"fraction": 0.5, "low": 0.4, "high": 0.8}
    found = points("half", {"all_steps": 20, "time": time, "curves": curves})
    assert found == [
        Point("half", "compressed", 20, 2.0, 4.0, 1.25, 2.5),
        Point("half", "compressed", 1, 40.0, 5.0, 25.0, 50.0),
        Point("dense", "dense", 25, 0.8, 3.0, 0.8, 0.8),
        Point("dense", "dense", 5, 4.0, 9.0, 4.0, 4.0),
    ]
    assert [point.name for point in found[:3]] == ["half, 20 steps", "half, 1 step", "dense, 25 steps"]
