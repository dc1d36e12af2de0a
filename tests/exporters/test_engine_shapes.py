"""One engine for a range of batches, and on request one for each of its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters import engines
from exporters.config import EngineSettings, ExportSettings
from exporters.engines import batch_ranges
from exporters.stage import NAMES, STEP, _engines
from toolkit.files import write_json
from toolkit.progress import silent
from toolkit.run_folder import Run
from toolkit.runners import tensorrt_api
from toolkit.runners.tensorrt_api import TensorRT

ALONE = EngineSettings(one_per_shape=True)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("1:8:64", {"": "1:8:64", "-b1": "1:1:1", "-b8": "8:8:8", "-b64": "64:64:64"}),
        ("4:4:4", {"": "4:4:4", "-b4": "4:4:4"}),
    ],
)
def test_a_range_and_each_of_its_shapes(batch: str, expected: dict[str, str]) -> None:
    settings = ExportSettings.model_validate({"batch": batch})
    assert {name: str(found) for name, found in batch_ranges(settings).items()} == {"": batch}
    settings = settings.model_copy(update={"engine": ALONE})
    assert {name: str(found) for name, found in batch_ranges(settings).items()} == expected


def write(api: Any, onnx: Path, description: Any, target: Path, settings: ExportSettings, progress: Any) -> Any:
    """What write_engine leaves."""
    target.write_bytes(b"plan")
    found = {"onnx": onnx.name, "batch": str(settings.batch)}
    write_json(target.with_suffix(".json"), found)
    return found


EXPORTED = {"onnx": {n: {"file": f"{n}.onnx", "sha256": {}, "dtype": "fp32"} for n in (*NAMES, STEP)}}


def test_with_a_gpu_the_denoisers_engines_are_held_against_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rung:
        def __init__(self, model: str, settings: ExportSettings, name: str) -> None:
            self.told = f"{model} {settings.batch} {name}"

        def engine(self, plan: Path) -> str:
            assert plan.read_bytes() == b"plan"
            return f"{self.told} {plan.name}"

    monkeypatch.setattr(engines, "write_engine", write)
    monkeypatch.setattr("exporters.ladder.Ladder", Rung)
    monkeypatch.setattr(tensorrt_api, "has_gpu", lambda: True)
    monkeypatch.setattr(tensorrt_api, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    models: Any = {name: f"model {name}" for name in NAMES}
    settings = ExportSettings.model_validate({"batch": "1:2:4"})
    found = _engines(Run.create(tmp_path), settings, EXPORTED, models, silent)
    assert {name: entry.get("parity") for name, entry in found.items()} == {
        **{name: f"model {name} 1:2:4 {name} {name}.plan" for name in NAMES},
        STEP: None,
    }


def test_every_shape_has_its_plan_for_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "write_engine", write)
    monkeypatch.setattr(tensorrt_api, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    run, settings = Run.create(tmp_path), ExportSettings.model_validate({"batch": "1:2:4", "engine": ALONE})
    found = _engines(run, settings, EXPORTED, {}, silent)
    assert {name: (entry["onnx"], entry["batch"]) for name, entry in found.items()} == {
        f"{name}{ending}": (f"{name}.onnx", batch)
        for name in NAMES
        for ending, batch in {"": "1:2:4", "-b1": "1:1:1", "-b2": "2:2:2", "-b4": "4:4:4"}.items()
    } | {STEP: (f"{STEP}.onnx", "1:2:4")}
    assert all((tmp_path / entry["file"]).read_bytes() == b"plan" for entry in found.values())
