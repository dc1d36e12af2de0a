"""A run from Python: what lies in memory is stored, every stage returns what it found, the command line agrees."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import toolkit
from tests.cli.conftest import dtk
from tests.tiny import SMALLEST, tiny_folder, tiny_unet
from toolkit.api import results
from toolkit.api.result import Result
from toolkit.api.stored import stored_data
from toolkit.core.errors import DtkError
from toolkit.core.files import folder_sha256
from toolkit.core.noise import generator
from toolkit.core.progress import silent
from toolkit.data.conditions import Condition, Kind
from toolkit.data.open import open_images
from toolkit.pipeline.job import open_job
from toolkit.report.gates import GateFailedError, parse

PIXELS = generator("api images", 0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
SMALL = SMALLEST | {"block_out_channels": (32,)}
SCHEDULER = DDPMScheduler(num_train_timesteps=100)
SCORED = {"target": "macs=0.57", "align": 4, "calibration_images": 6, "threshold": 0.5, "score_timesteps": 8}
FAST = {**SCORED, "steps": 3, "batch_size": 4}
BRIEF = {"runners": ("torch",), "baseline": "torch", "batches": (1,), "loop_steps": 0, "parts": False}


def unet() -> UNet2DModel:
    return tiny_unet(**SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> toolkit.Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return toolkit.compress(unet(), scheduler=SCHEDULER, data=PIXELS, out=out, **FAST)


@pytest.mark.slow
def test_a_model_and_data_in_memory_make_a_run_that_repeats_itself(run: toolkit.Run, tmp_path: Path) -> None:
    assert run.model().num_parameters() == run.plan().achieved.params
    assert DDPMPipeline.from_pretrained(run.folder / "model").unet.num_parameters() == run.model().num_parameters()
    again = toolkit.run_recipe(run.folder / "recipe.yaml", out=tmp_path / "again")
    states = (run.model().state_dict(), again.model().state_dict())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.slow
def test_folder_and_pipeline_give_the_same_run(run: toolkit.Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=PIXELS)
    folder = tiny_folder(tmp_path / "model", **SMALL).root
    for number, model in enumerate((folder, DDPMPipeline(unet(), SCHEDULER))):
        other = toolkit.compress(model, data=tmp_path / "images.npz", out=tmp_path / f"run {number}", **FAST)
        state = other.model().state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in run.model().state_dict().items())


@pytest.mark.slow
def test_every_stage_returns_what_its_command_prints(run: toolkit.Run) -> None:
    found: dict[str, Result] = {
        "evaluate": run.evaluate(images=4, sampling_steps=2),
        "export": run.export(loop_steps=2, batch="1:2:4"),
        "profile": run.profile(rounds={"seconds": 0.1, "least": 6, "most": 6}, **BRIEF),
        "handoff": run.handoff(default_steps=2),
    }
    for stage, result in found.items():
        answer = dtk(stage, run.folder, "--json")
        assert answer.code == 0, answer.err
        assert answer.json == json.loads(json.dumps(result.to_json())), stage
    evaluation, export, profile = found["evaluate"], found["export"], found["profile"]
    assert isinstance(evaluation, results.Evaluation) and isinstance(export, results.Export)
    assert isinstance(profile, results.Profile)
    assert set(evaluation.distances) == {"dense", "compressed", "floor"} and 0 < evaluation.ssim <= 1
    assert "<img" in evaluation._repr_html_() and "FD" in evaluation._repr_html_()
    assert (run.folder / export.files["compressed.onnx"]).is_file() and export.relative_error < 1e-4
    speedup = profile.speedup("torch", 1)
    assert speedup.low <= speedup.value <= speedup.high
    assert (profile.runners, profile.batches) == (["torch"], [1]) and min(profile.latency_ms("torch", 1)) > 0
    assert set(run.report().missing) == {"verify"}
    run.verify(artefact="torch", images=20, margin="50%")
    report = run.report()
    assert report.verdict in dtk("report", run.folder).out and report.page and report.page.is_file()
    assert report.missing == {}
    with pytest.raises(GateFailedError, match="torch@1.latency_ms") as failed:
        run.profile(fail_if=["torch@1.latency_ms>0"])
    assert isinstance(failed.value.profile, results.Profile)


@pytest.mark.slow
def test_recovery_resumes_to_more_steps(run: toolkit.Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    longer = toolkit.compress(unet(), scheduler=SCHEDULER, data=PIXELS, out=out, **FAST).recover(steps=5)
    assert longer.steps == 5 and longer.losses["total"] > 0


@pytest.mark.slow
def test_a_refused_call_leaves_what_the_run_is_made_of(run: toolkit.Run, tmp_path: Path) -> None:
    before = folder_sha256(run.folder)
    other, options = {"scheduler": SCHEDULER, "data": PIXELS[::-1], "out": run.folder}, FAST | {"target": "macs=0.001"}
    for refused, words in ((FAST, "run of another recipe"), (options, "macs"), (FAST | {"steps": -1}, "steps")):
        with pytest.raises(DtkError, match=words):
            toolkit.compress(tiny_unet(seed=1, **SMALL), **other, **refused)
        assert folder_sha256(run.folder) == before
    copied = shutil.copytree(run.folder, tmp_path / "run")
    toolkit.compress(tiny_unet(seed=1, **SMALL), **other | {"out": copied}, overwrite=True, **FAST)
    assert len(list(copied.glob("dense-*"))) == len(list(copied.glob("data-*"))) == 1


@pytest.mark.slow
def test_a_model_of_other_inputs_is_not_measured_against(run: toolkit.Run, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "classes", **SMALL, num_class_embeds=3).root
    with pytest.raises(DtkError, match=r"takes other inputs[\s\S]*class_labels[\s\S]*expected"):
        run.profile(against=other, **BRIEF)


@pytest.mark.slow
def test_a_handoff_of_another_export_is_neither_current_nor_tested(run: toolkit.Run, tmp_path: Path) -> None:
    other = toolkit.open_run(shutil.copytree(run.folder, tmp_path / "run"))
    assert open_job(other.folder).dense.root.parent == other.folder, "what a copied run holds itself is read there"
    judged = {"images": 20, "margin": "50%"}
    other.export(loop_steps=2, batch="1:2:4")
    other.handoff(default_steps=2)
    assert other.verify(**judged, artefact="torch").to_json()["artefact"] == "torch:fp32"
    assert other.verify(**judged).to_json()["artefact"] == "onnxruntime:fp32", "what the handoff holds, again"
    other.recover(steps=4)
    assert "handoff" in other.report().to_json()["stale"]
    other.export(loop_steps=2)
    with pytest.raises(DtkError, match=r"holds another export[\s\S]*dtk handoff"):
        other.verify(**judged)
    other.handoff(default_steps=2)
    assert "handoff" not in other.report().to_json()["stale"]
    assert other.export(dtype="bf16", opset=23, loop_steps=2).relative_error is None
    with pytest.raises(DtkError, match="Cannot decide on parity"):
        parse("parity>1e-3").failure(other.report().to_json()["stages"])
    with pytest.raises(DtkError, match=r"does not make the known image[\s\S]*--dtype fp16"):
        other.handoff(default_steps=2)


@pytest.mark.parametrize(("kind", "values"), [("class", [2, None, 0]), ("caption", ["a cat", None, "a dog"])])
def test_what_an_image_lacks_in_memory_it_lacks_stored(kind: Kind, values: list[Condition], tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model", **SMALL)
    for conditions in (values, np.array(values, dtype=object)):
        for data in (PIXELS[:3], list(PIXELS[:3])):
            stored = stored_data(data, model, None, conditions, tmp_path / "run", silent)
            images = open_images(stored, (3, 8, 8))
            assert images.conditions(kind, range(3)) == values
            assert np.array_equal(((images.read(range(3)) + 1) * 127.5).round(), PIXELS[:3])


@pytest.mark.slow
def test_notes_go_to_the_logger_and_nothing_is_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    from PIL import Image

    for number, pixels in enumerate(PIXELS[:20]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(images / f"{number}.png")
    (images / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING, logger="toolkit"):
        toolkit.compress(
            tiny_folder(tmp_path / "model", **SMALL).root, data=images, out=tmp_path / "run", recover=False,
            target="macs=0.57", align=4, calibration_images=4, threshold=0.5, score_timesteps=8,
        )  # fmt: skip
    assert "Skipped notes.txt" in caplog.text
    assert capsys.readouterr().out == ""


def test_what_is_no_run_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="is not a run folder"):
        toolkit.open_run(tmp_path)
    with pytest.raises(DtkError, match=r"trains and judges on images[\s\S]*use prune\(\)"):
        toolkit.compress(unet(), scheduler=SCHEDULER, data=PIXELS, value_range="latents", out=tmp_path / "run")
    with pytest.raises(DtkError, match=r"noise levels[\s\S]*scheduler="):
        toolkit.compress(unet(), data=PIXELS, out=tmp_path / "run")


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_a_verb_is_used() -> None:
    code = (
        "import sys, toolkit; dir(toolkit); light = 'torch' not in sys.modules; "
        "toolkit.plan; print(light, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"]
    assert set(toolkit.__all__) <= set(dir(toolkit))
    with pytest.raises(AttributeError, match="no attribute 'squeeze'"):
        _ = toolkit.squeeze
