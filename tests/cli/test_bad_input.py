"""Bad input: a clear error in words, an exit code, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.conftest import FAST, dtk
from toolkit.core.files import folder_sha256
from toolkit.report.results import READERS, command

WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def compress(model: object, data: Path, out: Path, *more: object):
    return dtk("compress", model, "--data", data, "-o", out, *FAST, *more)


def missing(model: Path) -> str:
    return str(model / "nowhere")


def foreign(model: Path) -> Path:
    (model / "model_index.json").unlink()
    shutil.rmtree(model / "unet")
    return model


def truncated(model: Path) -> Path:
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-1000])
    return model


def tampered(model: Path) -> Path:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[10:14] = b"!!!!"
    (model / WEIGHTS).write_bytes(bytes(content))
    return model


def lacking(model: Path) -> Path:
    tensors = load_file(model / WEIGHTS)
    del tensors["conv_in.weight"]
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    return model


def not_finite(model: Path) -> Path:
    tensors = load_file(model / WEIGHTS)
    tensors["conv_in.weight"][0] = torch.nan
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    return model


def unknown_class(model: Path) -> Path:
    edited(model / "unet" / "config.json", _class_name="UVit2DModel")
    return model


def pickled_file(model: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, model / "unet.pth")
    return model / "unet.pth"


def pickled_folder(model: Path) -> Path:
    (model / WEIGHTS).unlink()
    torch.save({"a": torch.zeros(1)}, model / "unet" / "diffusion_pytorch_model.bin")
    return model


def without_scheduler(model: Path) -> Path:
    shutil.rmtree(model / "scheduler")
    return model


def quantised(model: Path) -> Path:
    edited(model / "unet" / "config.json", quantization_config={"quant_method": "torchao"})
    return model


def with_lora(model: Path) -> Path:
    """As save_pretrained leaves a model whose adapters were loaded and not fused."""
    tensors = load_file(model / WEIGHTS)
    tensors["time_embedding.linear_1.base_layer.weight"] = tensors.pop("time_embedding.linear_1.weight")
    tensors["time_embedding.linear_1.lora_A.default.weight"] = torch.zeros(2, 16)
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    return model


def lora_beside(model: Path) -> Path:
    save_file({"unet.mid_block.lora_A.weight": torch.zeros(2, 32)}, model / "unet" / "pytorch_lora_weights.safetensors")
    return model


def eight_bits(model: Path) -> Path:
    tensors = load_file(model / WEIGHTS)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int8)
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    return model


def linked_to_nothing(model: Path) -> Path:
    """As a cache of the hub looks from which the blobs were removed."""
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to("../../blobs/0123")
    return model


def linked_to_a_device(model: Path) -> Path:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to("/dev/zero")
    return model


def indivisible(model: Path) -> Path:
    edited(model / "unet" / "config.json", norm_num_groups=5)
    return model


BAD_MODELS = [
    (missing, "No such model"),
    (foreign, "neither a diffusers pipeline nor one of its components"),
    (truncated, "truncated or changed"),
    (tampered, "truncated or changed"),
    (lacking, "missing conv_in.weight"),
    (not_finite, "conv_in.weight .* holds NaN or infinity"),
    (unknown_class, r"does not know the model class UVit2DModel[\s\S]*UNet2DModel"),
    (pickled_file, "pickled checkpoint[\\s\\S]*unpickling can run any code"),
    (pickled_folder, "no safetensors weights[\\s\\S]*pickled"),
    (without_scheduler, "has no scheduler"),
    (quantised, "is quantised"),
    (eight_bits, r"are quantised[\s\S]*conv_in\.weight is I8[\s\S]*prune first, quantise afterwards"),
    (with_lora, r"LoRA layers that are not merged[\s\S]*linear_1\.lora_A\.default\.weight[\s\S]*fuse_lora"),
    (lora_beside, r"pytorch_lora_weights\.safetensors holds LoRA layers that are not merged"),
    (linked_to_nothing, r"weights that are not there[\s\S]*diffusion_pytorch_model\.safetensors: a link to nothing"),
    (linked_to_a_device, "weights that are not there"),
    (indivisible, r"describes no UNet2DModel[\s\S]*num_channels"),
]


@pytest.mark.parametrize(("damage", "words"), BAD_MODELS, ids=[damage.__name__ for damage, _ in BAD_MODELS])
def test_bad_models(damage, words: str, model: Path, data: Path, tmp_path: Path) -> None:
    source = damage(shutil.copytree(model, tmp_path / "model"))
    answer = compress(source, data, tmp_path / "run")
    assert answer.code == 1
    assert_words(words, answer.err)
    assert not (tmp_path / "run" / "prune").exists()


def assert_words(words: str, text: str) -> None:
    import re

    assert re.search(words, text), text


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            ["--criterion", "fisher"],
            2,
            "Unknown criterion 'fisher'[\\s\\S]*diff-pruning, magnitude, random, scratch, taylor",
        ),
        (["--target", "flops=0.5"], 2, "Unknown target 'flops'[\\s\\S]*macs, params, width"),
        (["--target", "width=0.02"], 1, r"narrower than a level of this model may get[\s\S]*level 0: 0\.32 of 16"),
        (["--target", "macs=0.01"], 1, "nearest below none, nearest above macs=0"),
        (["--target", "macs=0.93"], 1, "nearest below macs=0[\\s\\S]*nearest above macs=1"),
        (["--threshold", "sometimes"], 2, "prune.threshold"),
        (["--groups", "half"], 2, "prune.groups"),
        (["--batch-size", "60"], 1, "fewer images than a batch[\\s\\S]*58 training images[\\s\\S]*at least 60"),
        (["--calibration-images", "50"], 1, "too few images to calibrate on[\\s\\S]*58 training images[\\s\\S]*100"),
        (["--device", "cuda"], 1, "torch sees no CUDA device"),
    ],
)
def test_bad_options(options: list[str], code: int, words: str, model: Path, data: Path, tmp_path: Path) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    answer = compress(model, data, tmp_path / "run", *options)
    assert answer.code == code
    assert_words(words, answer.err)


def images_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / f"{number:03}.png")
    return folder


def test_an_empty_data_folder(model: Path, tmp_path: Path) -> None:
    answer = compress(model, images_in(tmp_path / "images", 0), tmp_path / "run")
    assert answer.code == 1
    assert_words("No images in .*[\\s\\S]*no files", answer.err)


@pytest.mark.slow
def test_bad_files_among_images_are_named_and_counted(model: Path, tmp_path: Path) -> None:
    folder = images_in(tmp_path / "images", 40)
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.png").write_bytes((folder / "001.png").read_bytes()[:40])
    answer = compress(model, folder, tmp_path / "run", "--no-recover")
    assert answer.code == 0, answer.err
    assert_words("Skipped .*notes.txt", answer.err)
    assert_words("Skipped .*broken.png", answer.err)
    plan = json.loads((tmp_path / "run" / "prune" / "plan.json").read_text())
    assert plan["calibration"]["skipped"] == 2


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_and_kept(model: Path, data: Path, compressed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(compressed, tmp_path / "run")
    before = folder_sha256(out)
    answer = compress(model, data, out, "--target", "width=0.75")
    assert answer.code == 1
    assert_words("holds a run of another recipe[\\s\\S]*prune.target[\\s\\S]*--overwrite", answer.err)
    assert folder_sha256(out) == before
    assert compress(model, data, out, "--target", "width=0.75", "--overwrite").code == 0
    assert json.loads((out / "prune" / "plan.json").read_text())["requested"]["target"] == "width=0.75"


@pytest.mark.slow
def test_a_run_is_not_replaced_by_one_that_is_made_of_it(data: Path, model: Path, compressed: Path, tmp_path: Path):
    out = shutil.copytree(compressed, tmp_path / "run")
    before = folder_sha256(out)
    for dense, more in ((out / "model", ["--target", "macs<=0.99"]), (model, ["--resume-from", out])):
        answer = dtk("compress", dense, "-o", out, "--data", data, "--overwrite", *more)
        assert answer.code == 2
        assert_words("would remove what the new run is made of[\\s\\S]*run/model[\\s\\S]*another folder", answer.err)
        assert folder_sha256(out) == before


@pytest.mark.slow
def test_a_folder_of_other_things_is_not_taken(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"]):
        answer = compress(model, data, tmp_path / "run", *more)
        assert answer.code == 1
        assert_words("a folder with other things in it", answer.err)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("command", ["recover", "evaluate", "export", "profile", "report"])
def test_commands_want_a_run_folder(command: str, tmp_path: Path) -> None:
    answer = dtk(command, tmp_path / "nowhere")
    assert answer.code == 1
    assert_words("is not a run folder[\\s\\S]*no such folder[\\s\\S]*do: name such a folder, or make one", answer.err)


def test_a_run_of_a_newer_schema_is_refused(compressed: Path, tmp_path: Path) -> None:
    shutil.copytree(compressed, tmp_path / "run")
    edited(tmp_path / "run" / "run.json", schema_version=99)
    answer = dtk("export", tmp_path / "run")
    assert answer.code == 1
    assert_words("another version of dtk[\\s\\S]*schema version 99", answer.err)


def test_a_misspelt_recipe_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("prune:\n  taget: macs=0.5\n")
    answer = dtk("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run")
    assert answer.code == 2
    assert_words("prune.taget", answer.err)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: !!python/object/apply:os.system ['touch sprung']", "constructor for the tag"),
        ("model: " + "[" * 3000, "Cannot read the recipe"),
        ("recover:\n  steps: " + "9" * 5000, "Cannot read the recipe"),
        ("recover:\n  learning_rate: .inf", "recover.learning_rate: .* finite"),
        ("recover:\n  learning_rate: .nan", "recover.learning_rate"),
    ],
    ids=["a tag", "nested without end", "a number without end", "infinity", "not a number"],
)
def test_a_hostile_recipe_is_refused_in_words_and_runs_nothing(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(text)
    answer = dtk("run", "recipe.yaml", "-o", "run")
    assert answer.code in (1, 2)
    assert_words(words, answer.err)
    assert not Path("sprung").exists() and not Path("run").exists()


def test_a_hostile_setting_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    answer = dtk("run", tmp_path / "recipe.yaml", "--set", "model=" + "[" * 3000, "-o", tmp_path / "run")
    assert answer.code == 2
    assert_words("Cannot read the value in 'model=", answer.err)


def test_profile_before_export_says_what_to_do(compressed: Path) -> None:
    answer = dtk("profile", compressed, "--runner", "onnxruntime", "--batch", "1")
    assert answer.code == 1
    assert_words("no finished export stage[\\s\\S]*dtk export", answer.err)


@pytest.mark.slow
def test_a_model_whose_context_nothing_makes_is_planned_but_not_pruned(data: Path, tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    from tests.tiny import tiny_conditional_unet

    tiny_conditional_unet().save_pretrained(tmp_path / "model" / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "model" / "scheduler")
    planned = dtk("compress", tmp_path / "model", "--target", "width=0.5", "--dry-run", "--json")
    assert planned.code == 0 and planned.json["achieved"]["params_fraction"] < 0.6
    np.savez(tmp_path / "latents.npz", images=np.zeros((64, 8, 8, 4), dtype=np.uint8))
    answer = compress(tmp_path / "model", tmp_path / "latents.npz", tmp_path / "run", "--target", "width=0.5")
    assert answer.code == 1
    assert_words("takes a context, and nothing next to it makes one[\\s\\S]*--dry-run", answer.err)


@pytest.mark.parametrize("bad", [["--target", "macs=0.01"], ["--criterion", "fisher"], ["--data", "nowhere.npz"]])
def test_an_overwrite_that_cannot_succeed_loses_nothing(
    bad: list[str], model: Path, data: Path, compressed: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(compressed, tmp_path / "run")
    before = folder_sha256(out)
    assert compress(model, data, out, *bad, "--overwrite").code != 0
    assert folder_sha256(out) == before


@pytest.mark.slow
def test_a_refused_command_does_not_stand_in_the_way_of_the_right_one(model: Path, data: Path, tmp_path: Path) -> None:
    assert compress(model, data, tmp_path / "run", "--criterion", "fisher").code == 2
    assert compress(model, data, tmp_path / "run", "--calibration-images", "50").code == 1
    assert compress(model, data, tmp_path / "run").code == 0
    assert dtk("recover", tmp_path / "run", "--batch-size", "1000").code == 1
    assert dtk("recover", tmp_path / "run").code == 0


@pytest.mark.slow
def test_folders_of_the_user_in_a_run_are_left_alone(model: Path, data: Path, compressed: Path, tmp_path: Path) -> None:
    shutil.copytree(compressed, tmp_path / "run")
    (tmp_path / "run" / ".git").mkdir()
    (tmp_path / "run" / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (tmp_path / "run" / "notes.md").write_text("years of work")
    assert compress(model, data, tmp_path / "run", "--target", "width=0.75", "--overwrite").code == 0
    assert (tmp_path / "run" / ".git" / "HEAD").is_file() and (tmp_path / "run" / "notes.md").is_file()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("unet/config.json", "{}", "neither a diffusers pipeline|names no _class_name"),
        ("unet/config.json", '{"_class_name": "UNet2DModel", "block_out_channels": [8]}', "describes no UNet2DModel"),
        ("unet/config.json", "[1]", r"Cannot read .*config\.json[\s\S]*list[\s\S]*a JSON object"),
        ("unet/config.json", "[" * 100_000, r"Cannot read .*config\.json"),
        (
            "unet/config.json",
            '{"_class_name": "UNet2DModel", "block_out_channels": [1e30, 1e30]}',
            "describes no UNet2D",
        ),
        *(
            ("unet/config.json", json.dumps({"_class_name": "UNet2DModel", name: value}), f"found: {name}")
            for name, value in {
                "layers_per_block": 10**6,
                "block_out_channels": [10**6, 2 * 10**6],
                "sample_size": 10**9,
                "in_channels": 0,
                "out_channels": "3",
            }.items()
        ),
        ("scheduler/scheduler_config.json", '{"_class_name": "os"}', "names no scheduler of diffusers"),
        (
            "scheduler/scheduler_config.json",
            '{"_class_name": "DDPMScheduler", "beta_schedule": "x"}',
            "describes no DDPM",
        ),
        (
            "scheduler/scheduler_config.json",
            '{"_class_name": "DDPMScheduler", "num_train_timesteps": 1000000000}',
            "num_train_timesteps 1000000000",
        ),
    ],
)
def test_malformed_configs_are_told(
    file: str, content: str, words: str, model: Path, data: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(model, tmp_path / "model")
    (source / file).write_text(content)
    answer = compress(source, data, tmp_path / "run")
    assert answer.code == 1
    assert_words(words, answer.err)


def test_a_run_without_a_finished_stage_has_nothing_to_report(compressed: Path, tmp_path: Path) -> None:
    shutil.copytree(compressed, tmp_path / "run")
    edited(tmp_path / "run" / "run.json", stages={})
    answer = dtk("report", tmp_path / "run")
    assert answer.code == 1
    assert_words("has nothing to report on yet[\\s\\S]*dtk compress -o", answer.err)


@pytest.mark.parametrize("stage", [stage for stage in READERS if stage != "recover"])  # whose result is in run.json
def test_a_stage_whose_result_was_deleted_is_named_with_its_command(
    stage: str, compressed: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compressed, tmp_path / "run")
    edited(run / "run.json", stages={stage: json.loads((run / "run.json").read_text())["stages"]["prune"]})
    shutil.rmtree(run / stage, ignore_errors=True)
    answer = dtk("report", run)
    assert answer.code == 1
    again = f"dtk run {run}/recipe.yaml" if stage in ("prune", "decoder") else command(stage, run)
    assert_words(f"the stage {stage} has finished[\\s\\S]*Cannot read[\\s\\S]*do: {again}\n", answer.err)


def test_what_is_advised_for_a_deleted_result_brings_it_back(compressed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compressed, tmp_path / "run")
    before = folder_sha256(run / "prune" / "model")
    shutil.rmtree(run / "prune")
    advice = dtk("report", run).err.split("do: dtk ")[1].split()
    assert dtk(*advice).code == 0
    assert dtk("report", run).code == 0 and folder_sha256(run / "prune" / "model") == before


def test_without_the_dense_model_what_is_known_is_reported_and_the_rest_says_what_is_missing(
    compressed: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compressed, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"model": str(tmp_path / "gone")}))
    report = dtk("report", run, "--json")
    assert report.code == 0, report.err
    assert report.json["dense_missing"] is True
    assert {"prune", "recover"} <= set(report.json["stages"])
    answer = dtk("profile", run, "--runner", "torch", "--baseline", "torch", "--batch", 1)
    assert answer.code == 1
    assert_words("No such model[\\s\\S]*gone", answer.err)
