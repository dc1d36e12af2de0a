"""What was exported of a model is never taken for another's, by whatever reads it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters.base import NAMES
from tests.tiny import SMALLEST, tiny_folder
from toolkit.core.errors import DtkError
from toolkit.core.files import files_sha256, write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.models.folder import ModelFolder
from toolkit.pipeline import stages
from toolkit.pipeline.artefacts import engines_of, export_of, find_artefact


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    folder = tmp_path_factory.mktemp("models")
    names = ("dense", "compressed", "new")
    return {name: tiny_folder(folder / name, seed, **SMALLEST) for seed, name in enumerate(names)}


@pytest.fixture
def run(models: dict[str, ModelFolder], tmp_path: Path) -> RunFolder:
    """A run whose export, of files that nothing opens, is recorded as that of the dense and the compressed model."""
    run = RunFolder.create(tmp_path / "run")
    with run.writing(Request("export", {}, {name: models[name].sha256 for name in NAMES})) as folder:
        (folder / "onnx").mkdir()
        for name in NAMES:
            (folder / "onnx" / f"{name}.onnx").touch()
            write_json(folder / "onnx" / f"{name}.json", {"sha256": {f"{name}.onnx": "0"}, "dtype": "fp32"})
    return run


def test_an_export_is_of_the_models_that_the_run_holds_now(run: RunFolder, models: dict[str, ModelFolder]) -> None:
    now = {name: models[name] for name in NAMES}
    assert export_of(run, now)["inputs"] == {name: model.sha256 for name, model in now.items()}
    assert find_artefact(run, models["compressed"], "openvino:fp32").name == "openvino:fp32"
    words = r"is of another compressed model[\s\S]*do: dtk export"
    with pytest.raises(DtkError, match=words):
        export_of(run, now | {"compressed": models["new"]})
    with pytest.raises(DtkError, match=r"is of another dense and another compressed model"):
        export_of(run, dict.fromkeys(NAMES, models["new"]))
    with pytest.raises(DtkError, match=words):
        find_artefact(run, models["new"], "openvino:fp32")


def test_what_was_exported_before_the_model_was_trained_on_is_not_handed_off(
    run: RunFolder, models: dict[str, ModelFolder]
) -> None:
    job: Any = SimpleNamespace(run=run, compressed=models["new"])
    with pytest.raises(DtkError, match=r"is of another compressed model[\s\S]*do: dtk export"):
        stages.handoff(job)


def test_engines_are_of_the_export_that_the_run_holds_now(run: RunFolder) -> None:
    for of_another in (None, *NAMES):
        with run.writing(Request("tensorrt", {}, {})) as folder:
            for name in NAMES:
                onnx = "of an earlier export" if name == of_another else files_sha256({f"{name}.onnx": "0"})
                write_json(folder / f"{name}.json", {"facts": {"onnx": onnx}})
        if of_another is None:
            assert engines_of(run)
            continue
        with pytest.raises(DtkError, match=rf"The {of_another} engine in .* is of another export[\s\S]*--trt"):
            engines_of(run)
