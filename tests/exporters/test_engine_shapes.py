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


def test_every_shape_has_its_plan_for_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(api: Any, onnx: Path, description: Any, target: Path, settings: ExportSettings, progress: Any) -> None:
        target.write_bytes(b"plan")
        write_json(target.with_suffix(".json"), {"onnx": onnx.name, "batch": str(settings.batch)})

    monkeypatch.setattr(engines, "write_engine", write)
    monkeypatch.setattr(tensorrt_api, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    exported = {"onnx": {n: {"file": f"{n}.onnx", "sha256": {}, "dtype": "fp32"} for n in (*NAMES, STEP)}}
    run, settings = Run.create(tmp_path), ExportSettings.model_validate({"batch": "1:2:4", "engine": ALONE})
    found = _engines(run, settings, exported, silent)
    assert {name: (entry["onnx"], entry["batch"]) for name, entry in found.items()} == {
        f"{name}{ending}": (f"{name}.onnx", batch)
        for name in NAMES
        for ending, batch in {"": "1:2:4", "-b1": "1:1:1", "-b2": "2:2:2", "-b4": "4:4:4"}.items()
    } | {STEP: (f"{STEP}.onnx", "1:2:4")}
    assert all((tmp_path / entry["file"]).read_bytes() == b"plan" for entry in found.values())
