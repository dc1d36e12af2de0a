"""A decoder in the chain: resumed bit by bit, published with the run's model, refused where it cannot be narrower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from tests.latent import tiny_ldm, tiny_stable_diffusion
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256
from toolkit.core.noise import generator
from toolkit.pipeline import decoder, recipe, stages
from toolkit.pipeline.decoder_settings import DecoderSettings
from toolkit.pipeline.job import Job, start_job
from toolkit.pipeline.options import compress_recipe

DECODER = {"target": "width=0.5", "align": 4, "calibration_images": 4, "batch_size": 4, "checkpoint_every": 2}
WEIGHTS = "decoder/autoencoder/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("decoder")
    tiny_stable_diffusion(root / "model")
    pixels = generator("decoder images", 0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    np.savez(root / "data.npz", images=pixels)
    return root


def asked(place: Path, changes: dict[str, Any] | None, **others: Any) -> recipe.Recipe:
    stages_left = dict.fromkeys(("recover", "evaluate", "export", "profile"))
    values = {
        "model": str(place / "model"),
        "data": {"source": str(place / "data.npz"), "holdout": 0.4},
        "device": "cpu",
        "prune": {"target": "width=0.75", "align": 4, "criterion": "magnitude", "calibration_images": 2},
        "decoder": None if changes is None else {**DECODER, **changes},
    }
    return recipe.make(values | stages_left | others, "The test's recipe")


def ran(place: Path, name: str, changes: dict[str, Any] | None, **others: Any) -> Job:
    job = start_job(place / name, asked(place, changes, **others))
    stages.run_all(job)
    return job


def interrupt_at(step: int) -> Any:
    def progress(work: str, done: int, total: int) -> None:
        if work == "recovering the decoder" and done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
def test_training_brings_it_nearer_to_the_dense_one_and_the_result_is_stock(place: Path) -> None:
    job = ran(place, "trained", {"steps": 40})
    result = decoder.compress_decoder(job.run, job.recipe.decoder, job.dense, job.examples, job.held_out)
    errors = result["errors"]
    assert errors["one_shot"]["to_dense"] + 1 < errors["recovered"]["to_dense"], "in dB"
    assert result["achieved"]["macs_fraction"] < 0.5 and result["steps"] == 40
    pipeline = DiffusionPipeline.from_pretrained(job.run.path / "model", safety_checker=None)
    dense = load_file(job.dense.root / "vae" / "diffusion_pytorch_model.safetensors")
    compressed = pipeline.vae.state_dict()
    around = [name for name in dense if not name.startswith("decoder.")]
    assert all(torch.equal(dense[name], compressed[name]) for name in around)
    assert pipeline.vae.decoder.conv_in.out_channels == 4 and pipeline.vae.encoder.conv_in.out_channels == 8
    before = file_sha256(job.run.path / "run.json")
    stages.decoder(job)
    assert file_sha256(job.run.path / "run.json") == before, "a second run does nothing"


@pytest.mark.slow
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(place: Path) -> None:
    constant = {"schedule": "constant"}
    whole = ran(place, "whole", {"steps": 5, **constant})
    job = start_job(place / "halted", asked(place, {"steps": 5, **constant}), progress=interrupt_at(3))
    with pytest.raises(KeyboardInterrupt):
        stages.run_all(job)
    assert not (place / "halted" / "decoder").exists()
    ran(place, "halted", {"steps": 5, **constant})
    for steps in (2, 5):
        ran(place, "grown", {"steps": steps, **constant})
    for name in ("halted", "grown"):
        assert file_sha256(whole.run.path / WEIGHTS) == file_sha256(place / name / WEIGHTS), name


@pytest.mark.slow
def test_one_that_is_added_to_a_finished_run_trains_nothing_again(place: Path) -> None:
    recovery = {"steps": 2, "batch_size": 4, "checkpoint_every": 1}
    before = ran(place, "added", None, recover=recovery)
    unet = file_sha256(before.run.path / "model/unet/diffusion_pytorch_model.safetensors")
    (saved,) = {path.stat().st_mtime_ns for path in (before.run.path / "recover/checkpoints").glob("*2.safetensors")}
    after = ran(place, "added", {"steps": 1}, recover=recovery)
    assert file_sha256(after.run.path / "model/unet/diffusion_pytorch_model.safetensors") == unet
    assert {p.stat().st_mtime_ns for p in (after.run.path / "recover/checkpoints").glob("*2.safetensors")} == {saved}
    assert file_sha256(after.run.path / WEIGHTS) == file_sha256(
        after.run.path / "model/vae/diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(DtkError, match="holds a run of another recipe"):
        ran(place, "added", None, recover=recovery)


@pytest.mark.slow
def test_what_has_no_decoder_to_narrow_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    kinds = {"pixels": tiny_folder, "latents": tiny_ldm}
    messages = {"pixels": r"has no decoder[\s\S]*without|leave out --decoder", "latents": "VQModel cannot be narrower"}
    for kind, make in kinds.items():
        make(tmp_path / kind)
        requested = compress_recipe(str(tmp_path / kind), None, {"decoder": "macs=0.5", "target": "width=1"})
        with pytest.raises(DtkError, match=messages[kind]):
            start_job(tmp_path / f"run-{kind}", requested)
        assert not (tmp_path / f"run-{kind}").exists()


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UsageError, match="latency of a decoder is no target"):
        compress_recipe(None, None, {"decoder": "latency=0.5"})
    with pytest.raises(UsageError, match="--decoder-steps would change nothing"):
        compress_recipe(None, None, {"decoder_steps": 5})
    pruned_only = compress_recipe(None, None, {"decoder": "macs=0.5", "seed": 3}, recover=False).decoder
    assert pruned_only == DecoderSettings(target="macs=0.5", seed=3, steps=0)
