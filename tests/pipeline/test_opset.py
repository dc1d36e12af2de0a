"""The opset of an export: measured once, never one that a runner refuses, and never changed for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters import settings as exporting
from exporters.settings import ExportSettings
from tests.exported import exported, specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError
from toolkit.core.progress import silent
from toolkit.pipeline import opset

REFUSED = {"refused": "it refuses GroupNormalization"}


def speed(value: float) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "confidence": 0.95, "verdict": "faster"}


def speeds(*values: float) -> dict[str, dict[str, Any]]:
    return {str(number): speed(value) for number, value in zip((21, 18, 23), values, strict=True)}


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "the fastest": ({"a": speeds(1.0, 1.2, 1.1)}, 18),
    "over all runners": ({"a": speeds(1.0, 1.1, 1.0), "b": speeds(1.0, 0.9, 1.3)}, 23),
    "the first if none is clearly faster": ({"a": speeds(1.0, 1.01, 1.02)}, 21),
    "none that one refuses": ({"a": speeds(1.0, 1.2, 1.1), "b": speeds(1.0, 1.2, 1.1) | {"18": REFUSED}}, 23),
    "not the first if it is refused": ({"a": {"21": REFUSED, "18": speed(1.0), "23": speed(0.9)}}, 18),
    "the first if nothing runs here": ({}, 21),
    "what an engine's parser takes": ({"a": speeds(1.0, 0.9, 1.2), "tensorrt": {"23": REFUSED}}, 21),
}


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What will be measured, one after another."""
    given: list[dict[str, Any]] = []
    monkeypatch.setenv("DTK_CACHE", str(tmp_path))
    monkeypatch.setattr(exporting, "AUTO_OPSETS", (21, 18, 23))
    monkeypatch.setattr(opset, "_measured", lambda *_: given.pop(0))
    return given


def chosen(**settings: Any) -> dict[str, Any]:
    return opset.choose_opset(tiny_model(), ExportSettings(**settings), "cpu", silent)


@pytest.mark.parametrize("case", CASES)
def test_it_takes(case: str, measurements: list[dict[str, Any]]) -> None:
    measured, expected = CASES[case]
    measurements.append(measured)
    found = chosen()
    assert (found["opset"], found["runners"]) == (expected, measured)
    assert found["margin"] is not None and found["margin"] > 0.9


def test_what_everyone_refuses_is_said(measurements: list[dict[str, Any]]) -> None:
    measurements.append({"a": {"21": REFUSED, "18": speed(1.0), "23": REFUSED}, "b": {"18": {"refused": "no room"}}})
    with pytest.raises(
        DtkError, match=r"No opset is taken[\s\S]*it refuses GroupNormalization; no room[\s\S]*--opset N"
    ):
        chosen()


def test_it_is_measured_once_for_each_thing_it_depends_on(measurements: list[dict[str, Any]]) -> None:
    measurements += [{"a": speeds(1.0, 1.2, 1.1)}, {"a": speeds(1.0, 1.0, 1.1)}]
    assert [chosen()["opset"], chosen()["opset"]] == [18, 18]
    assert chosen(batch="1:4:8")["opset"] == 23
    assert not measurements


def test_a_precision_of_one_opset_is_not_measured(measurements: list[dict[str, Any]]) -> None:
    assert chosen(dtype="bf16") == {"opset": 23}


@pytest.mark.slow
def test_a_file_that_a_runner_refuses_is_noted_and_the_others_are_timed(tmp_path: Path) -> None:
    broken = tmp_path / "18.onnx"
    broken.write_bytes(b"no model")
    files = {18: broken, 21: exported()}
    found = opset._speeds("onnxruntime", "cpu", files, example_inputs(specs_of(tiny_model()), 2))
    assert "ONNX Runtime cannot load" in found["18"]["refused"]
    assert found["21"]["value"] == 1.0


@pytest.mark.slow
def test_a_real_measurement_times_every_opset_in_every_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path))
    monkeypatch.setattr(exporting, "AUTO_OPSETS", (21, 18))
    found = chosen(batch="1:2:4")
    assert {"onnxruntime", "openvino"} <= set(found["runners"])
    assert all(one[number]["value"] > 0 for one in found["runners"].values() for number in ("21", "18"))
    assert found["opset"] in (21, 18)
