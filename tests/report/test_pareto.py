"""What is worth having: held against every pair, and drawn."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from toolkit.report.pareto import Point, dominated, draw


def point(name: str, cost: float, distance: float, kind: str = "compressed") -> Point:
    return Point(name, kind, 20, cost, distance, 0.95 * cost, 1.05 * cost)  # type: ignore[arg-type]


def test_the_front_by_hand() -> None:
    points = [point("dense", 1.0, 10), point("good", 0.5, 11), point("bad", 0.6, 12), point("worst", 0.9, 30)]
    assert dominated(points) == [None, None, "good", "good"]
    assert dominated([point("a", 1, 1), point("b", 1, 1)]) == [None, None], "equal points do not exclude each other"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_what_is_not_dominated_is_a_staircase_and_the_rest_lies_behind_it(places: list[tuple[int, int]]) -> None:
    points = [point(str(number), *place) for number, place in enumerate(places)]
    worse = dominated(points)
    front = sorted({(p.cost, p.distance) for p, by in zip(points, worse, strict=True) if by is None})
    assert front
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(front))
    by_name = {p.name: (p.cost, p.distance) for p in points}
    assert all(by_name[by] in front for by in worse if by is not None)


def test_the_picture_names_every_point_and_fills_the_front(tmp_path: Path) -> None:
    points = [point("dense, 20 steps", 1.0, 10, "dense"), point("latency-0.5", 0.5, 11), point("macs-0.6", 0.6, 12)]
    draw(points, "FD (EfficientNet-Lite0@64)", tmp_path / "pareto.svg")
    draw(points, "FD (EfficientNet-Lite0@64)", tmp_path / "again.svg")
    text = (tmp_path / "pareto.svg").read_text()
    assert text == (tmp_path / "again.svg").read_text()
    words = "".join(ElementTree.fromstring(text).itertext())
    assert all(p.name in words for p in points)
    assert "FD (EfficientNet-Lite0@64)" in words and "dominated" in words
