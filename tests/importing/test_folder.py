"""A diffusers folder with pickled weights, or those of a variant, becomes the folder it would have been."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file

from tests.cli.conftest import dtk
from tests.latent import tiny_stable_diffusion
from tests.tiny import PLAIN, tiny_dit, tiny_unet
from toolkit.core.errors import DtkError
from toolkit.core.files import folder_sha256
from toolkit.importing.convert import convert
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler

UNET = "unet/diffusion_pytorch_model"
SAVED = {
    "pickled": {"safe_serialization": False},
    "variant": {"variant": "fp16"},
    "pickled variant": {"variant": "fp16", "safe_serialization": False},
    "shards": {"max_shard_size": "20KB"},
    "pickled shards": {"max_shard_size": "20KB", "safe_serialization": False, "variant": "fp16"},
}


def pipeline() -> DDPMPipeline:
    return DDPMPipeline(tiny_unet(), DDPMScheduler(num_train_timesteps=100))


@pytest.mark.parametrize("saved", SAVED)
def test_the_weights_are_those_of_the_folder(saved: str, tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "old", **SAVED[saved])
    answer = dtk("import", tmp_path / "old", "-o", tmp_path / "new", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["class"], answer.json["sample_size"]) == ("UNet2DModel", 8)
    network = load_denoiser(find_model(tmp_path / "new"))
    assert answer.json["params"] == network.num_parameters()
    weights = tiny_unet().state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    names = {path.name for path in (tmp_path / "new" / "unet").iterdir()}
    assert not [name for name in names if "fp16" in name or name.endswith(".bin")]
    assert ("shards" in saved) == any("-of-" in name for name in names)


def test_every_component_is_converted_and_the_rest_is_copied(tmp_path: Path) -> None:
    tiny_stable_diffusion(tmp_path / "safe")
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "safe", safety_checker=None)
    whole.save_pretrained(tmp_path / "old", safe_serialization=False)
    text = whole.text_encoder.state_dict()
    torch.save(text, tmp_path / "old" / "text_encoder" / "pytorch_model.bin")
    (tmp_path / "old" / "text_encoder" / "model.safetensors").unlink(missing_ok=True)
    convert(tmp_path / "old", tmp_path / "new")
    for place in ("unet", "vae"):
        name = f"{place}/diffusion_pytorch_model.safetensors"
        before, after = load_file(tmp_path / "safe" / name), load_file(tmp_path / "new" / name)
        assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "new", safety_checker=None, use_safetensors=True)
    assert all(torch.equal(text[name], tensor) for name, tensor in again.text_encoder.state_dict().items())
    assert folder_sha256(tmp_path / "old" / "tokenizer") == folder_sha256(tmp_path / "new" / "tokenizer")


def test_plain_weights_go_before_those_of_a_variant(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "old", safe_serialization=False)
    pipeline().to(dtype=torch.float16).save_pretrained(tmp_path / "old", variant="fp16")
    convert(tmp_path / "old", tmp_path / "new")
    assert load_file(tmp_path / "new" / f"{UNET}.safetensors")["conv_in.weight"].dtype == torch.float32


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("sprung"),))


def test_weights_that_bring_code_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline().save_pretrained("old", safe_serialization=False)
    torch.save({"conv_in.weight": Trap()}, tmp_path / "old" / f"{UNET}.bin")
    with pytest.raises(DtkError, match="to load it would run code"):
        convert(Path("old"), Path("new"))
    assert not Path("sprung").exists() and not Path("new").exists()


@pytest.mark.parametrize("saved", ["pickled", "variant"])
def test_the_other_commands_name_this_one(saved: str, tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "old", **SAVED[saved])
    with pytest.raises(DtkError, match="dtk import FOLDER -o MODEL"):
        load_denoiser(find_model(tmp_path / "old"))


@pytest.mark.parametrize("given", ["ddpm", "ddim", "file", "folder"])
@pytest.mark.parametrize("saved", [{}, {"variant": "fp16", "safe_serialization": False}], ids=["plain", "pickled"])
def test_a_bare_denoiser_gets_a_scheduler_and_its_pipeline(
    given: str, saved: dict[str, object], tmp_path: Path
) -> None:
    network = tiny_unet(**PLAIN)
    network.save_pretrained(tmp_path / "bare", **saved)
    own = EulerDiscreteScheduler(num_train_timesteps=100, beta_schedule="scaled_linear")
    own.save_pretrained(tmp_path / "own")
    places = {"file": tmp_path / "own" / "scheduler_config.json", "folder": tmp_path / "own"}
    answer = dtk("import", tmp_path / "bare", "--scheduler", places.get(given, given), "-o", tmp_path / "new")
    assert answer.code == 0, answer.err
    assert ("taken to be DDPM's: linear from 0.0001 to 0.02, 1000 timesteps" in answer.err) == (given not in places)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "new")
    expected = {"ddpm": DDPMScheduler(), "ddim": DDIMScheduler()}.get(given, own)
    assert type(load_scheduler(find_model(tmp_path / "new"))) is type(expected)
    assert torch.equal(pipeline.scheduler.alphas_cumprod, expected.alphas_cumprod)
    assert type(pipeline).__name__ == ("DDIMPipeline" if given == "ddim" else "DDPMPipeline")
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in pipeline.unet.state_dict().items())


def test_a_denoiser_that_no_pipeline_makes_images_with_gets_a_scheduler_alone(tmp_path: Path) -> None:
    tiny_dit().save_pretrained(tmp_path / "bare")
    with pytest.raises(DtkError, match="has no scheduler[\\s\\S]*dtk import .*bare --scheduler ddpm -o MODEL"):
        load_scheduler(find_model(tmp_path / "bare"))
    convert(tmp_path / "bare", tmp_path / "new", scheduler="ddpm")
    assert find_model(tmp_path / "new").component == "transformer"
    assert isinstance(load_scheduler(find_model(tmp_path / "new")), DDPMScheduler)
    assert not (tmp_path / "new" / "model_index.json").exists()


@pytest.mark.parametrize(
    ("make", "scheduler", "words"),
    [
        (lambda path: pipeline().save_pretrained(path), "ddpm", "has a scheduler[\\s\\S]*leave out --scheduler"),
        (lambda path: tiny_unet(**PLAIN).save_pretrained(path), "euler", "No such scheduler: euler"),
        (Path.touch, "ddpm", "noise levels of a checkpoint are known"),
    ],
    ids=["has one", "unknown", "checkpoint"],
)
def test_a_scheduler_that_cannot_be_given_is_said(make, scheduler: str, words: str, tmp_path: Path) -> None:
    make(tmp_path / "old")
    answer = dtk("import", tmp_path / "old", "--scheduler", scheduler, "-o", tmp_path / "new")
    assert answer.code == 2 and re.search(words, answer.err), answer.err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.json").write_text(json.dumps({}))
    with pytest.raises(DtkError, match="neither a diffusers pipeline nor"):
        convert(tmp_path / "old", tmp_path / "new")
