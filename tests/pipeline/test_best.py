"""What suits a goal best, among what a server can run, and the recipe it leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.example import example
from toolkit.core.errors import DtkError
from toolkit.core.files import write_json
from toolkit.pipeline.best import best, with_best
from toolkit.pipeline.recipe import make


def cell(ms: float, batch: int) -> dict[str, Any]:
    return {"compressed": {"p50_ms": ms, "images_per_s": batch / ms * 1e3}}


PROFILE: dict[str, Any] = {
    "runners": {
        "torch": {"dtype": "fp32", "latency": {"1": cell(0.1, 1), "16": cell(9.0, 16)}},
        "openvino:bf16": {"dtype": "bf16", "latency": {"1": cell(1.5, 1), "16": cell(8.4, 16)}},
        "onnxruntime": {"dtype": "fp32", "latency": {"1": cell(2.0, 1), "16": cell(15.0, 16), "64": cell(64.0, 64)}},
        "tensorrt-cudagraph": {"dtype": "fp16", "latency": {"1": cell(3.0, 1), "16": cell(12.0, 16)}},
    }
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_json(tmp_path / "export" / "onnx" / "compressed.json", {"opset": 18, "dtype": "fp32"})
    return tmp_path


def test_latency_is_of_the_smallest_batch_and_throughput_of_any(run: Path) -> None:
    found = {goal: best(run, PROFILE, goal) for goal in ("latency", "throughput")}  # type: ignore[arg-type]
    assert [(one["runner"], one["batch"], one["opset"]) for one in found.values()] == [
        ("openvino:bf16", 1, 18),
        ("openvino:bf16", 16, 18),
    ]
    assert [better["runner"] for better in found["throughput"]["passed_over"]] == ["torch"]
    assert "the runtimes of a server are" in found["throughput"]["passed_over"][0]["why"]


def test_the_recipe_exports_and_hands_off_what_was_chosen_and_keeps_the_rest(run: Path) -> None:
    recipe = make({"export": {"batch": "2:4:8", "sampler": "ddpm"}, "handoff": {"instances": 3}}, "a test")
    without = {"runners": {name: found for name, found in PROFILE["runners"].items() if name != "openvino:bf16"}}
    for profile, goal, runtime, trt, batch in (
        (PROFILE, "latency", "openvino:bf16", False, "1:1:8"),
        (without, "latency", "onnxruntime", False, "1:1:8"),
        (without, "throughput", "tensorrt", True, "2:16:16"),
    ):
        written = with_best(recipe, run, best(run, profile, goal), "cuda:1")  # type: ignore[arg-type]
        exported, handed = written.export, written.handoff
        assert exported is not None and handed is not None
        assert (str(exported.batch), exported.opset, exported.trt, exported.sampler) == (batch, 18, trt, "ddpm")
        assert (handed.runtime, handed.device, handed.instances) == (runtime, "gpu", 3)
        assert make(written.model_dump(mode="json"), "a test") == written, "it is written and read again"


def test_nothing_that_a_server_runs_is_an_error_that_says_what_to_add(run: Path) -> None:
    only = {"runners": {"torch": PROFILE["runners"]["torch"]}}
    with pytest.raises(DtkError, match=r"Nothing that was measured can be handed off[\s\S]*torch[\s\S]*--runner onnxr"):
        best(run, only, "latency")


def test_a_reports_profile_can_be_chosen_from(run: Path) -> None:
    assert best(run, example()["stages"]["profile"], "throughput")["runner"] == "onnxruntime"
