"""Each command does what its help says, on a tiny real model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors.torch import load_file

from tests.cli.conftest import FAST, dtk, with_a_short_loop
from tests.tiny import tiny_folder
from tests.without_dtk import TOLERANCE, difference_without_dtk, store_probes
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.pruning import surgery
from toolkit.pruning.criteria.base import known_criteria
from toolkit.pruning.plan import read_plan
from toolkit.pruning.scores import AUTO_THRESHOLDS, read_scores


def test_compress_leaves_a_stock_pipeline(compressed: Path, model: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(compressed / "model")
    assert type(pipeline.unet) is UNet2DModel
    plan = json.loads((compressed / "prune" / "plan.json").read_text())
    dense = load_denoiser(find_model(model))
    assert (
        pipeline.unet.num_parameters() == plan["achieved"]["params"] < dense.num_parameters() == plan["dense"]["params"]
    )
    assert plan["achieved"]["macs_fraction"] == pytest.approx(0.45, rel=0.02)
    assert len(pipeline(batch_size=2, num_inference_steps=2).images) == 2


@pytest.mark.slow
def test_the_result_computes_the_same_where_dtk_is_not_installed(compressed: Path, tmp_path: Path) -> None:
    result = shutil.copytree(compressed / "model", tmp_path / "model")
    store_probes(load_denoiser(find_model(result)), (3, 8, 8), tmp_path / "probes.safetensors")
    assert difference_without_dtk(result, tmp_path / "probes.safetensors") < TOLERANCE


def test_the_plan_rebuilds_the_pruned_weights_from_the_dense_ones(compressed: Path, model: Path) -> None:
    plan = read_plan(compressed / "prune" / "plan.json")
    rebuilt, _ = surgery.slice_model(
        load_denoiser(find_model(model)), plan.config, plan.layout, plan.kept, timesteps=100
    )
    stored = load_file(compressed / "prune" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == rebuilt.state_dict().keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in rebuilt.state_dict().items())


@pytest.mark.slow
def test_reconstruction_is_taken_if_it_helps(data: Path, tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model").root
    options = [*FAST, "--criterion", "magnitude", "--no-recover", "--reconstruct"]
    answer = dtk("compress", model, "--data", data, "-o", tmp_path / "run", *options, "--json")
    assert answer.code == 0, answer.err
    found = answer.json["stages"]["prune"]
    fit, sliced = found["reconstruction"], found["held_out_loss"]["one_shot"]
    assert fit["timesteps"] == [6, 18, 31, 43, 56, 68, 81, 93]
    assert fit["taken"] and fit["held_out_loss"] < sliced
    plan, dense = read_plan(tmp_path / "run" / "prune" / "plan.json"), load_denoiser(find_model(model))
    rebuilt, _ = surgery.slice_model(dense, plan.config, plan.layout, plan.kept, timesteps=100)
    stored = load_file(tmp_path / "run" / "prune" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    same = all(torch.equal(stored[name], tensor) for name, tensor in rebuilt.state_dict().items())
    assert not same, "the fitted weights are not the sliced ones"
    told = f"sliced {sliced:.4f}, reconstructed {fit['held_out_loss']:.4f}"
    assert told in dtk("report", tmp_path / "run").out.replace("\n", " ")


@pytest.mark.slow
def test_the_same_command_again_does_nothing(compressed: Path, model: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in compressed.rglob("*.safetensors")}
    answer = dtk("compress", model, "--data", data, "-o", compressed, *FAST)
    assert answer.code == 0
    assert "scoring" not in answer.err and "recovering" not in answer.err
    assert {path: path.stat().st_mtime_ns for path in compressed.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_threshold_auto_takes_the_stop_with_the_least_one_shot_loss(model: Path, data: Path, tmp_path: Path) -> None:
    plans = {}
    for threshold in ("auto", "0.0"):
        options = ["--threshold", threshold, "--no-recover", "--score-timesteps", 4, "--noise-draws", 2, "--json"]
        answer = dtk("compress", model, "--data", data, "-o", tmp_path / threshold, *FAST, *options)
        assert answer.code == 0, answer.err
        plans[threshold] = answer.json["stages"]["prune"]
    assert plans["auto"]["scoring"]["threshold"] in AUTO_THRESHOLDS
    loss = {threshold: plan["held_out_loss"]["one_shot"] for threshold, plan in plans.items()}
    assert loss["auto"] <= loss["0.0"]
    scored = read_scores(tmp_path / "auto" / "prune" / "scores.safetensors")
    assert set(scored) == set(AUTO_THRESHOLDS) and all(len(one.halves) == 2 for one in scored.values())


@pytest.mark.slow
def test_the_norm_term_is_asked_for_on_the_command_line(model: Path, tmp_path: Path) -> None:
    found = {}
    for option in ("--norm-term", "--no-norm-term"):
        options = ["--criterion", "magnitude", "--target", "macs=0.45", "--align", 4, "--no-recover", "--json", option]
        answer = dtk("compress", model, "-o", tmp_path / option, *options)
        assert answer.json["stages"]["prune"]["requested"]["norm_term"] == (option == "--norm-term")
        found[option] = read_scores(tmp_path / option / "prune" / "scores.safetensors")[0.05].scores
    with_term, without = found.values()
    assert all((with_term[name] >= scores).all() for name, scores in without.items())
    assert any((with_term[name] > scores).any() for name, scores in without.items())


def test_stability_of_the_scores_is_in_the_plan_and_said(compressed: Path) -> None:
    stability = json.loads((compressed / "prune" / "plan.json").read_text())["stability"]
    assert -1 <= stability["rank_correlation"] <= 1 and stability["kept_overlap"] <= 1
    told = f"rank correlation {stability['rank_correlation']:.2f}, kept overlap {stability['kept_overlap']:.2f}"
    assert told in dtk("report", compressed).out.replace("\n", " ")


@pytest.mark.slow
def test_scores_outlive_a_run_that_was_cut_short_after_them(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["compress", model, "--data", data, "-o", tmp_path / "run", *FAST, "--no-recover"]
    with monkeypatch.context() as broken:
        broken.setattr(surgery, "slice_model", lambda *_: pytest.fail("cut short"))
        with pytest.raises(pytest.fail.Exception):
            dtk(*arguments)
    again = dtk(*arguments)
    assert again.code == 0 and "scoring" not in again.err


@pytest.mark.slow
def test_another_target_needs_no_second_scoring(model: Path, data: Path, compressed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(compressed, tmp_path / "run")
    answer = dtk("run", out / "recipe.yaml", "--set", "prune.target=width=0.75", "--overwrite")
    assert answer.code == 0, answer.err
    plan = json.loads((out / "prune" / "plan.json").read_text())
    assert [(width["dense"], width["achieved"]) for width in plan["widths"]] == [(16, 16), (32, 24)]
    assert "scoring" not in answer.err
    assert not (out / "evaluate").exists() and "recover" in json.loads((out / "run.json").read_text())["stages"]


@pytest.mark.slow
def test_a_recipe_repeats_a_run_bit_by_bit(compressed: Path, tmp_path: Path) -> None:
    answer = dtk("run", compressed / "recipe.yaml", "-o", tmp_path / "again")
    assert answer.code == 0, answer.err
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = (load_file(run / weights) for run in (compressed, tmp_path / "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_recover_goes_on_to_more_steps(compressed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(compressed, tmp_path / "run")
    answer = dtk("recover", out, "--steps", 5, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["steps"] == 5


def test_dry_run_wants_a_config_alone_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    shutil.copyfile(model / "unet" / "config.json", tmp_path / "unet" / "config.json")
    answer = dtk("compress", tmp_path, "--target", "width=0.75", "--align", 4, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["chosen_by"] == "width, without scores; those may choose other widths"
    assert answer.json["achieved"]["params_fraction"] < 0.7
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "unet"]


@pytest.mark.slow
def test_stage_commands_and_the_report(compressed: Path, tmp_path: Path) -> None:
    out = with_a_short_loop(shutil.copytree(compressed, tmp_path / "run"))
    evaluated = dtk("evaluate", out, "--images", 6, "--sampling-steps", 2, "--batch-size", 3, "--controls", "--json")
    assert evaluated.code == 0, evaluated.err
    exported = dtk("export", out, "--batch", "1:2:4", "--json")
    assert exported.code == 0, exported.err
    profiled = dtk(
        *("profile", out, "--runner", "torch,onnxruntime", "--baseline", "torch", "--batch", "1,2"),
        *("--seconds", 0.1, "--json"),
    )
    assert profiled.code == 0, profiled.err
    handed = dtk("handoff", out, "--max-queue-size", 7, "--max-steps", 10, "--default-steps", 3, "--json")
    assert handed.code == 0, handed.err
    assert (handed.json["queue"]["max_size"], handed.json["limits"]["default_steps"]) == (7, 3)
    refused = dtk("handoff", out, "--runtime", "tensorrt")
    assert refused.code == 2 and "--device gpu" in refused.err
    report = dtk("report", out, "--json").json
    assert report == json.loads((out / "report.json").read_text())
    assert report["stages"]["evaluate"] == evaluated.json
    assert report["stages"]["profile"] == profiled.json
    assert set(profiled.json["runners"]) == {"torch", "onnxruntime"}
    assert set(profiled.json["runners"]["torch"]["latency"]) == {"1", "2"}
    recipe = (out / "recipe.yaml").read_text()
    assert "sampling_steps: 2" in recipe, "the recipe says what ran"
    assert "batches:\n  - 1\n  - 2\n" in recipe
    told = dtk("report", out).out
    assert told.count("dense") > 3
    assert evaluated.json["controls"]["verdict"] in " ".join(told.split()), "a control that wins is not hidden"
    again = dtk("run", out / "recipe.yaml")
    assert again.code == 0 and "recovering" not in again.err and "sampling" not in again.err


@pytest.mark.parametrize("kind", ["criteria", "adapters", "runners", "exporters", "samplers", "losses", "teaching"])
def test_list_describes_what_there_is(kind: str) -> None:
    answer = dtk("list", kind, "--json")
    assert answer.code == 0
    assert answer.json and all(answer.json.values())


@pytest.mark.parametrize("kind", [(), ("colours",)])
def test_list_of_nothing_known_names_the_kinds(kind: tuple[str, ...]) -> None:
    answer = dtk("list", *kind)
    assert answer.code == 2
    assert "criteria" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("criterion", known_criteria())
def test_images_are_asked_for_only_where_some_are_read(criterion: str, model: Path, tmp_path: Path) -> None:
    reads = known_criteria()[criterion].reads_images
    options = ["--criterion", criterion, "--target", "macs=0.45", "--align", 4, "--no-recover", "--json"]
    answer = dtk("compress", model, "-o", tmp_path / "run", *options)
    if reads:
        assert answer.code == 1 and "--data" in answer.err
        return
    assert answer.code == 0, answer.err
    plan = answer.json["stages"]["prune"]
    assert plan["calibration"] is None and plan["held_out_loss"] == {"dense": None, "one_shot": None}
    assert plan["uniform"] and "no images were given" in plan["chosen_by"]
    assert DDPMPipeline.from_pretrained(tmp_path / "run" / "model").unet.num_parameters() == plan["achieved"]["params"]


@pytest.mark.slow
def test_scratch_is_a_trainer(model: Path, data: Path, tmp_path: Path) -> None:
    """Full width and fresh weights: the dense structure, trained by recovery from nothing."""
    options = ["--criterion", "scratch", "--target", "width=1.0"]
    answer = dtk("compress", model, "--data", data, "-o", tmp_path / "run", *FAST, *options)
    assert answer.code == 0, answer.err
    dense = load_denoiser(find_model(model)).state_dict()
    fresh = load_file(tmp_path / "run" / "prune" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {name: tensor.shape for name, tensor in fresh.items()} == {name: t.shape for name, t in dense.items()}
    assert not any(np.allclose(fresh[n], dense[n]) for n in dense if n.endswith("conv1.weight"))
