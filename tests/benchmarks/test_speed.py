"""The speed benchmark: what it measures, and the table it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import speed
from tests.report.example import example
from toolkit.runners.base import known_runners, parse_runner, runner_reads


@pytest.mark.parametrize("kernels", [True, False], ids=["bf16", "no bf16"])
def test_every_runner_at_hand_is_measured_in_each_precision_that_opens(
    kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_has_bf16", lambda device: kernels)
    monkeypatch.setattr(speed, "unavailable", lambda name, device: "not here" if name == "cudagraph" else None)
    monkeypatch.setattr(speed, "_opens", lambda name, dtype, onnx: (name, dtype) != ("openvino", "bf16"))
    specs = [parse_runner(text) for text in speed._specs(Path("RUN"))]
    expected = {name for name in known_runners() if runner_reads(name) != "engine"} - {"cudagraph"}
    assert {spec.name for spec in specs} == expected
    assert {spec.name for spec in specs if spec.dtype == "bf16"} == ({"torch", "compile"} if kernels else set())
    assert speed.HAD in map(str, specs)


def test_the_table_has_a_line_for_each_cell() -> None:
    lines = speed._table({"1": {"default": example()["stages"]["profile"]}})
    assert len(lines) == 2 + 2 * 3
    assert lines[-1] == "| 1 | default | onnxruntime | 70.18 | 1.71 (1.69-1.73) | 96% | 1.57 |"
