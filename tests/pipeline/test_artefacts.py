"""Exported forms of a model are judged as they are deployed: from the same noise, beside the models in torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.settings import ExportSettings
from tests.evaluation.pictures import SETTINGS, pictures
from tests.tiny import SMALLEST, tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import files_sha256, read_json, write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.evaluation import samples
from toolkit.evaluation.artefact import SamplingSettings
from toolkit.evaluation.features import Extractor
from toolkit.models.folder import ModelFolder
from toolkit.pipeline.artefacts import find_artefact
from toolkit.pipeline.evaluate import evaluate
from toolkit.pipeline.export import export
from toolkit.report import tables

pytestmark = pytest.mark.slow  # three exports
Models = tuple[ModelFolder, ModelFolder]
ON_FILES = ("onnxruntime", "openvino:fp32")
EXPORTED = ExportSettings(longest=3, loop_steps=2, loop_images=1, batch="1:1:2")  # type: ignore[arg-type]
EXTRACTOR = Extractor("quarters", "0" * 64, lambda: torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    narrow = tiny_folder(folder / "compressed", seed=1, **SMALLEST | {"block_out_channels": (8,)})
    return tiny_folder(folder / "dense", **SMALLEST), narrow


@pytest.fixture(scope="module")
def run(models: Models, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder.create(tmp_path_factory.mktemp("run"))
    export(run, EXPORTED, *models)
    return run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))


def judged(run: RunFolder, models: Models, *names: str) -> dict[str, Any]:
    found = [find_artefact(run, models[1], name) for name in names]
    return evaluate(run, SETTINGS, *models, pictures(30), extractor=EXTRACTOR, artefacts=found)


@pytest.mark.parametrize("name", ON_FILES)
@pytest.mark.parametrize("steps", [2, 4])  # the step graph has coefficients for at most 3
def test_every_runner_makes_the_images_of_torch_by_either_loop(
    run: RunFolder, models: Models, name: str, steps: int, tmp_path: Path
) -> None:
    plan, artefact = SamplingSettings("ddim", steps, 0, 4), find_artefact(run, models[1], name)
    assert artefact.loop(plan).startswith("step graph" if steps == 2 else "scheduler: its step graph has no")
    expected = samples.sample_images(models[1], plan, 6, tmp_path)
    made = samples.sample_images(models[1], plan, 6, tmp_path, artefact=artefact)
    np.testing.assert_allclose(made.astype(int), expected.astype(int), atol=1)


def test_figures_stand_beside_those_of_torch_and_nothing_else_is_made_again(
    run: RunFolder, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = judged(run, models)
    made: list[str] = []
    maker = samples.ImageMaker
    monkeypatch.setattr(samples, "ImageMaker", lambda *given: (made.append(str(given[-1].name)), maker(*given))[1])
    metrics = judged(run, models, *ON_FILES)
    assert made == ["onnxruntime:fp32", "openvino:fp32"]
    assert {name: metrics[name] for name in before} == before
    torch_in_pairs = before["pairs"]
    for found in metrics["artefacts"].values():
        assert found["loop"] == "step graph"
        assert found["frechet_distance"]["value"] == pytest.approx(
            before["frechet_distance"]["compressed"]["value"], rel=1e-2
        )
        assert found["pairs"]["compressed"]["ssim"] > 0.999
        assert found["pairs"]["dense"]["ssim"] == pytest.approx(torch_in_pairs["ssim"], abs=1e-2)
    assert judged(run, models, "onnxruntime") == judged(run, models) == metrics
    assert made == ["onnxruntime:fp32", "openvino:fp32"]
    titles = [getattr(table, "title", "") for table in tables.evaluation(metrics)]
    assert "Deployed, from the same noise" in titles


def test_torch_itself_is_an_artefact_and_has_its_samples_already(run: RunFolder, models: Models) -> None:
    metrics = judged(run, models, "torch")
    assert metrics["artefacts"]["torch:fp32"]["pairs"]["compressed"]["psnr_db"] is None
    distances = metrics["frechet_distance"]
    assert metrics["artefacts"]["torch:fp32"]["frechet_distance"]["value"] == distances["compressed"]["value"]


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime:fp16", "openvino:fp16"])
def test_what_was_not_exported_is_refused_with_what_was(run: RunFolder, models: Models, name: str) -> None:
    words = rf"{name} was not exported[\s\S]*exported: onnxruntime:fp32, openvino:fp32, openvino:bf16[\s\S]*or torch"
    with pytest.raises(UsageError, match=words):
        find_artefact(run, models[1], name)


def test_an_engine_runs_the_steps_that_its_graph_was_exported_with(
    run: RunFolder, models: Models, tmp_path: Path
) -> None:
    built = RunFolder(Path(shutil.copytree(run.path, tmp_path / "built")))
    with built.writing(Request("tensorrt", {}, {})) as folder:
        for name in ("dense", "compressed", "compressed_step"):
            exported = read_json(built.path / "export" / "onnx" / f"{name}.json")["sha256"]
            (folder / f"{name}.plan").write_bytes(name.encode())
            write_json(folder / f"{name}.json", {"facts": {"onnx": files_sha256(exported), "dtype": "fp32"}})
    artefact = find_artefact(built, models[1], "tensorrt")
    loops = [artefact.loop(SamplingSettings(sampler, steps, 0)) for sampler, steps in (("ddim", 2), ("ddpm", 2))]
    assert loops[0] == "step graph" and loops[1].startswith("scheduler: its step graph holds the sampler ddim")


def test_nothing_exported_and_a_runner_that_is_none(models: Models, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"onnxruntime was not exported[\s\S]*exported: nothing[\s\S]*dtk export"):
        find_artefact(RunFolder.create(tmp_path / "empty"), models[1], "onnxruntime")
    with pytest.raises(UsageError, match="Unknown runner 'mnn'"):
        find_artefact(RunFolder.create(tmp_path / "empty"), models[1], "mnn")


def test_an_export_of_another_model_is_refused(run: RunFolder, models: Models) -> None:
    with pytest.raises(DtkError, match="is of another compressed model"):
        find_artefact(run, models[0], "onnxruntime")
