"""What is said of measured cells: shares, and the best of each side. Cells are numbers here; nothing is timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from profiles.comparison import compare_runners
from toolkit.runners.base import RunnerSpec

MADE = {"torch": {1: 10.0, 8: 30.0}, "onnxruntime": {1: 20.0, 8: 25.0}}
"""Images per second of the compressed model, by runner and batch size."""
HAD = {1: {"torch": 9.0, "compile": 12.0}, 8: {"torch": 16.0, "compile": 15.0}}
"""Those of the dense one without dtk, by batch size and runner."""


class Measured:
    """Cells that were measured: each compressed call is 1.5 times as fast."""

    runners = SimpleNamespace(precision=lambda spec: "fp32", close=lambda but: None)

    def baseline(self, dtype: str, batch: int) -> dict[str, Any]:
        rows = {f"{name}:{dtype}": {"images_per_s": made} for name, made in HAD[batch].items()}
        return {"rows": rows, "best": max(rows, key=lambda name: rows[name]["images_per_s"])}

    def latency(self, spec: RunnerSpec, batch: int, baseline: str) -> dict[str, Any]:
        made = {"images_per_s": MADE[spec.name][batch]}
        return {"open_s": {}, "speedup": {"value": 1.5}, "compressed": made, "baseline_runner": baseline}

    def loop(self, spec: RunnerSpec, batch: int) -> None:
        return None

    def memory(self, spec: RunnerSpec, batch: int) -> dict[str, Any]:
        return {}

    def gain(self, now: tuple[RunnerSpec, int], had: tuple[RunnerSpec, int]) -> dict[str, Any]:
        return {"compared": [f"{spec}@{batch}" for spec, batch in (now, had)]}


def test_the_realised_share_and_the_best_of_both_sides() -> None:
    cells: Any = Measured()
    found = compare_runners(cells, [RunnerSpec(name, None) for name in MADE], 2.0, [1, 8])
    for figures in found["runners"].values():
        assert [cell["realised_share"] for cell in figures["latency"].values()] == [pytest.approx(0.75)] * 2
        assert [cell["baseline_runner"] for cell in figures["latency"].values()] == ["compile:fp32", "torch:fp32"]
    headline = found["headline"]
    assert headline["now"] == {"runner": "torch", "batch": 8}
    assert headline["had"] == {"runner": "torch:fp32", "batch": 8}
    assert headline["compared"] == ["torch@8", "torch:fp32@8"]
