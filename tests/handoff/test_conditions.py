"""What the server makes of a class that the denoiser embeds itself, with and without guidance."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256, write_json
from toolkit.handoff.dtk_server.conditions import Conditions
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import io_schema

LABELS = {"sample": {"shape": ["batch", 4, 8, 8]}, "class_labels": {"shape": ["batch"]}}
GUIDED = LABELS | {"unconditional_class_labels": {"shape": ["batch"]}, "guidance_scale": {"shape": ["batch"]}}


def stored(folder: Path, inputs: dict[str, object]) -> Path:
    path = folder / "compressed_step.onnx"
    path.write_bytes(b"graph")
    write_json(path.with_suffix(".json"), {"inputs": inputs, "classes": 10, "sha256": {path.name: file_sha256(path)}})
    return path


def test_labels_without_a_null_class(tmp_path: Path) -> None:
    graph = StepGraph.read(stored(tmp_path, LABELS))
    assert [entry["name"] for entry in io_schema(graph)["inputs"]] == ["SEED", "STEPS", "CLASS"]
    conditions = Conditions(
        tmp_path, graph.conditions or {}, open_graph=lambda entry: pytest.fail("labels need no graph")
    )
    assert {name: int(value) for name, value in conditions(3, None).items()} == {"class_labels": 3}


def test_labels_with_the_null_class_behind_the_last(tmp_path: Path) -> None:
    graph = StepGraph.read(stored(tmp_path, GUIDED))
    assert [entry["name"] for entry in io_schema(graph)["inputs"]] == ["SEED", "STEPS", "GUIDANCE", "CLASS"]
    conditions = Conditions(
        tmp_path, graph.conditions or {}, open_graph=lambda entry: pytest.fail("labels need no graph")
    )
    found = {name: float(value) for name, value in conditions(3, 2.5).items()}
    assert found == {"class_labels": 3, "unconditional_class_labels": 10, "guidance_scale": 2.5}


def test_a_context_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, {"sample": LABELS["sample"], "encoder_hidden_states": {"shape": ["batch", 77, 8]}})
    with pytest.raises(DtkError, match=r"cannot make this step graph's context[\s\S]*no .*conditioner.onnx"):
        StepGraph.read(path)


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, LABELS)
    (tmp_path / "decoder.onnx").write_bytes(b"changed")
    write_json(tmp_path / "decoder.json", {"inputs": {"latents": {}}, "sha256": {"decoder.onnx": "0" * 64}})
    with pytest.raises(DtkError, match="decoder.onnx is damaged or was changed"):
        StepGraph.read(path)
