"""One engine for a range of batches, and on request one for each of its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters import engines
from exporters.base import NAMES, STEP, Exported
from exporters.engines import batch_ranges
from exporters.settings import EngineSettings, ExportSettings
from toolkit.core.files import write_json
from toolkit.core.progress import silent
from toolkit.core.run_folder import RunFolder
from toolkit.pipeline.export import _further
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


ONNX = {n: {"file": f"{n}.onnx", "sha256": {}, "dtype": "fp32"} for n in (*NAMES, STEP)}


def built(run: RunFolder, settings: ExportSettings, models: Any) -> Any:
    return _further(run, engines.EXPORTER, Exported(run.path, ONNX, models, settings), silent)


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
    monkeypatch.setattr("exporters.engines.Ladder", Rung)
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    monkeypatch.setattr(engines, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    models: Any = {name: f"model {name}" for name in NAMES}
    settings = ExportSettings.model_validate({"batch": "1:2:4"})
    found = built(RunFolder.create(tmp_path), settings, models)
    assert {name: entry.get("parity") for name, entry in found.items()} == {
        **{name: f"model {name} 1:2:4 {name} {name}.plan" for name in NAMES},
        STEP: None,
    }


def test_every_shape_has_its_plan_for_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "write_engine", write)
    monkeypatch.setattr(engines, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    run, settings = RunFolder.create(tmp_path), ExportSettings.model_validate({"batch": "1:2:4", "engine": ALONE})
    found = built(run, settings, {})
    assert {name: (entry["onnx"], entry["batch"]) for name, entry in found.items()} == {
        f"{name}{ending}": (f"{name}.onnx", batch)
        for name in NAMES
        for ending, batch in {"": "1:2:4", "-b1": "1:1:1", "-b2": "2:2:2", "-b4": "4:4:4"}.items()
    } | {STEP: (f"{STEP}.onnx", "1:2:4")}
    assert all((tmp_path / entry["file"]).read_bytes() == b"plan" for entry in found.values())
