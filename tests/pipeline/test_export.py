"""The export stage on real models: what it leaves, that it is not repeated, and that a fault stops it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import exporters.ladder
import exporters.parity
import exporters.resume
from exporters.overflow import RangeWatch
from exporters.settings import ExportSettings
from tests.tiny import SMALLEST, tiny_folder
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.core.errors import DtkError, MissingToolError, UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.diffusion.few_steps import few_step_scheduler
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.schedulers import load_scheduler, save_scheduler
from toolkit.pipeline.export import export
from toolkit.runners.base import open_runner
from toolkit.runners.onnxruntime import OnnxRuntimeRunner

pytestmark = pytest.mark.slow
SETTINGS = ExportSettings(dtype="fp16", batch="1:2:4", loop_steps=3, loop_images=2)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelFolder]:
    folder = tmp_path_factory.mktemp("models")
    narrow = tiny_folder(folder / "narrow", seed=1, **SMALLEST | {"block_out_channels": (8,)})
    return tiny_folder(folder / "wide", **SMALLEST), narrow


@pytest.fixture(scope="module")
def finished(
    models: tuple[ModelFolder, ModelFolder], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, Any, Any]:
    run, told = RunFolder.create(tmp_path_factory.mktemp("run")), []
    result = export(run, SETTINGS, *models, progress=lambda *progress: told.append(progress))
    return run, result, told


def test_leaves_both_models_with_their_descriptions_and_nothing_else(finished: tuple[RunFolder, Any, Any]) -> None:
    run, result, _ = finished
    files = sorted(str(path.relative_to(run.path)) for path in (run.path / "export").rglob("*") if path.is_file())
    models = ("compressed", "compressed_step", "dense")
    assert files == [f"export/onnx/{name}.{kind}" for name in models for kind in ("json", "onnx")] + [
        "export/parity.json"
    ]
    written = json.loads((run.path / "export" / "parity.json").read_text())
    assert set(written) == {"parity", "step_parity", "runners", "opset"}
    assert written == {name: result[name] for name in written}
    assert {found["dtype"] for found in result["onnx"].values()} == {"fp16"}
    assert all((run.path / found["file"]).is_file() for found in result["onnx"].values())


def test_climbs_from_full_to_half_precision(finished: tuple[RunFolder, Any, Any]) -> None:
    for rungs in finished[1]["parity"].values():
        assert list(rungs) == ["fp32", "fp16"]
        full, half = (rungs[dtype]["predictions"]["worst"]["relative_error"] for dtype in rungs)
        assert full < 1e-5 < half < 1e-2
        assert set(rungs["fp16"]["predictions"]["by_batch"]) == {"1", "2", "4"}
        assert set(rungs["fp16"]["predictions"]["by_timestep"]) == {"0", "1", "25", "50", "75", "99"}
        assert len(rungs["fp16"]["loop"]["psnr_db"]) == SETTINGS.loop_images


def test_each_file_is_the_model_it_is_named_after(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder]
) -> None:
    for name, model in zip(("dense", "compressed"), models, strict=True):
        inputs = example_inputs(input_specs(model.class_name, model.config, timesteps=100), 3)
        with torch.no_grad():
            expected = load_denoiser(model)(**inputs).sample
        got = open_runner("onnxruntime", finished[0].path / "export" / "onnx" / f"{name}.onnx")(**inputs)
        torch.testing.assert_close(got, expected, rtol=0, atol=0.01 * expected.abs().max().item())


def test_other_runners_sample_what_torch_samples_or_say_why_not(finished: tuple[RunFolder, Any, Any]) -> None:
    found = finished[1]["runners"]
    assert list(found) == ["openvino:fp32", "openvino:bf16"]
    assert found["openvino:fp32"]["least_psnr_db"] > found["openvino:fp32"]["floor_db"] == 40  # of a file in fp16
    half = found["openvino:bf16"]
    assert half["floor_db"] == 25 if "floor_db" in half else "without AMX or AVX512-BF16" in half["not_run"]


def test_the_step_graph_samples_what_torch_samples(finished: tuple[RunFolder, Any, Any]) -> None:
    found = finished[1]["step_parity"]
    assert (found["sampler"], found["steps"], len(found["psnr_db"])) == ("ddim", 3, 2)
    assert found["least_psnr_db"] > 40


def test_says_how_far_it_is(finished: tuple[RunFolder, Any, Any]) -> None:
    parts = 2 * 2 + 1 + 1  # two models on two rungs, the step graph, what stands around a denoiser
    assert finished[2] == [("export", done, parts) for done in range(parts + 1)]


def test_a_finished_stage_is_read_not_repeated(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.ladder, "export_onnx", lambda *args, **options: pytest.fail("exported again"))
    assert export(finished[0], SETTINGS, *models) == finished[1]


def test_out_of_tolerance_is_an_error_that_leaves_no_half_stage(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exporters.ladder.TOLERANCES, "fp32", 1e-12)
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(DtkError, match="The dense model as ONNX fp32 does not compute what torch computes") as raised:
        export(run, SETTINGS, *models)
    assert raised.value.exit_code == 1
    assert not (run.path / "export").exists()
    assert run.stage("export") is None


INTERRUPTIONS = [  # in the dense model's first rung, in the compressed model's, in the step graph's loop
    ("relative_errors", 3),
    ("relative_errors", 25),
    ("psnr_db", 5),
]


def test_an_interrupted_export_goes_on_where_it_was(
    finished: tuple[RunFolder, Any, Any],
    models: tuple[ModelFolder, ModelFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that was exported or computed before an interruption is exported or computed again."""
    made: list[str] = []

    def noted(kind: str, work: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            result = work(*args, **options)
            made.append(kind)
            return result

        return wrapped

    def interrupted(compare: Any, number: int) -> Any:
        left = list(range(number))

        def wrapped(*args: Any, **options: Any) -> Any:
            left.pop()
            if not left:
                raise KeyboardInterrupt
            return compare(*args, **options)

        return wrapped

    monkeypatch.setattr(exporters.resume, "KEPT_S", -1.0)
    for module, name in ((exporters.ladder, "export_onnx"), (exporters.ladder, "export_step")):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    for kind in (RangeWatch, OnnxRuntimeRunner):
        monkeypatch.setattr(kind, "__call__", noted(kind.__name__, kind.__call__))
    run, legs = RunFolder.create(tmp_path / "run"), []
    for comparison, number in INTERRUPTIONS:
        with monkeypatch.context() as leg, pytest.raises(KeyboardInterrupt):
            leg.setattr(exporters.parity, comparison, interrupted(getattr(exporters.parity, comparison), number))
            export(run, SETTINGS, *models)
        RunFolder.create(run.path)  # as the next command opens it
        legs.append(len(made))
    found = export(run, SETTINGS, *models)
    assert {name: found[name] for name in ("parity", "step_parity", "runners")} == {
        name: finished[1][name] for name in ("parity", "step_parity", "runners")
    }
    assert 0 < legs[0] < legs[1] < legs[2], "each leg came further"
    in_legs, made[:] = list(made), []
    export(RunFolder.create(tmp_path / "whole"), SETTINGS, *models)
    assert sorted(in_legs) == sorted(made), "as much in four legs as in one"
    assert not (run.path / "cache" / "export").exists()


def test_bf16_is_proven_as_far_as_this_machine_can(models: tuple[ModelFolder, ModelFolder], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dtype": "bf16", "opset": 23})
    found = export(RunFolder.create(tmp_path / "run"), settings, models[1], models[1])
    assert found["parity"]["dense"]["fp32"]["predictions"]["worst"]["relative_error"] < 1e-5
    for unproven in (found["parity"]["dense"]["bf16"], found["step_parity"]):
        assert "no bfloat16 matrix product on a CPU" in unproven["not_run"]


def test_engines_are_a_stage_of_their_own_behind_the_onnx_files(
    finished: tuple[RunFolder, Any, Any],
    models: tuple[ModelFolder, ModelFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    settings = SETTINGS.model_copy(update={"trt": True})
    run, again = finished[0], RunFolder(Path(shutil.copytree(finished[0].path, tmp_path / "again")))
    before = run.stage("export")
    found = export(run, settings, *models)["engines"]
    assert run.stage("export") == before, "the ONNX files were not made again"
    for name in ("dense", "compressed"):
        assert found[name]["precision"]["typed_share"] == 1.0
        assert found[name]["rebuilt"] == "no engine of this ONNX file was built before"
        assert "nothing was run" in found[name]["not_run"] or torch.cuda.is_available()
        assert (run.path / "tensorrt" / f"{name}.plan").stat().st_size == found[name]["size_bytes"]
    assert export(run, settings, *models)["engines"] == found
    assert export(again, settings, *models)["engines"]["dense"]["rebuilt"] is None, "found in the cache"


def test_without_tensorrt_the_onnx_files_are_there_all_the_same(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.runners.tensorrt_api.PACKAGES", ())
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(MissingToolError, match="No TensorRT can work here"):
        export(run, SETTINGS.model_copy(update={"dtype": "fp32", "trt": True}), *models)
    assert run.stage("export") is not None
    assert (run.path / "export" / "onnx" / "dense.onnx").is_file()


def test_a_taught_model_is_exported_as_it_samples(models: tuple[ModelFolder, ModelFolder], tmp_path: Path) -> None:
    taught = find_model(shutil.copytree(models[1].root, tmp_path / "taught"))
    save_scheduler(few_step_scheduler(load_scheduler(taught), 2, "v_prediction", [59, 19]), taught.root)
    settings = SETTINGS.model_copy(update={"sampler": "ddpm"})
    with pytest.raises(UsageError, match=r"takes them by ddim[\s\S]*sampler ddpm"):
        export(RunFolder.create(tmp_path / "run"), settings, models[0], taught)
