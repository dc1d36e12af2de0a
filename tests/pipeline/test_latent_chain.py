"""Compress, recover, evaluate, export and profile on every kind of latent model, through the pipeline.

Their handoff is tests/handoff/test_latent.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline
from PIL import Image

import exporters.ladder
from tests.latent import CLASSES, FOLDERS
from toolkit.adapters.inputs import example_inputs, input_specs, keywords
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, folder_sha256
from toolkit.core.noise import generator
from toolkit.diffusion.sampling import sample
from toolkit.models.build import load_denoiser
from toolkit.models.conditioning import context_tokens
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import Job, open_job, start_job
from toolkit.pipeline.options import with_options
from toolkit.runners.base import open_runner

pytestmark = pytest.mark.slow

IMAGES = 40
WHOLE = "sdxl"  # exported and profiled, too: the others' export is tests/handoff/test_latent.py's
EXPORT = {"dtype": "fp16", "batch": "1:2:2", "loop_steps": 2, "loop_images": 2, "longest": 4}
DECODED = ("caption", "sdxl")  # those with an AutoencoderKL, whose decoder is compressed as well
DECODER = {"target": "width=0.5", "align": 4, "calibration_images": 2, "steps": 2, "batch_size": 4}
GUIDED = {"unconditional": 1.0, "class": 2.0, "labels": 1.0, "caption": 2.0, "sdxl": 2.0}
PROFILE = {
    "runners": ["torch"],
    "baseline": "torch",
    "batches": [2],
    "loop_steps": 2,
    "rounds": {"seconds": 0.01, "least": 6, "most": 6},
    "parts": False,
}


class Means(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels.mean(dim=[2, 3]), pixels.std(dim=[2, 3])], dim=1)


def data(path: Path) -> Path:
    pixels = generator("chain", 0).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    captions = np.array(["a cat", "a dog"] * (IMAGES // 2))
    np.savez(path, images=pixels, labels=np.arange(IMAGES) % CLASSES, captions=captions)
    return path


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", params=list(FOLDERS))
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch
) -> tuple[str, Job]:
    """A run of the whole chain."""
    root = tmp_path_factory.mktemp(request.param)
    FOLDERS[request.param](root / "model")
    torch.jit.script(Means()).save(str(root / "means.pt"))
    guidance = GUIDED[request.param]
    asked = recipe.make(
        {
            "model": str(root / "model"),
            "data": {"source": str(data(root / "data.npz")), "holdout": 0.4},
            "device": "cpu",
            "prune": {"target": "width=0.75", "align": 4, "calibration_images": 2},
            "decoder": DECODER if request.param in DECODED else None,
            "recover": {"steps": 3, "batch_size": 4, "flip": True, "condition_dropout": 0.5},
            "evaluate": {
                "images": 8,
                "sampling_steps": 2,
                "features": str(root / "means.pt"),
                "guidance": guidance,
            },
            "export": EXPORT,
            "profile": PROFILE | {"guidance": guidance},
        },
        "The test's recipe",
    )
    job = start_job(root / "run", asked)
    decoder = ["decoder"] if request.param in DECODED else []
    patch.setattr(exporters.ladder, "rungs", lambda dtype: [dtype])  # how it climbs is test_export.py's
    for stage in ("prune", *decoder, "recover", "evaluate", *(["export", "profile"] if request.param == WHOLE else [])):
        stages.STAGES[stage](job)
    return request.param, job


def test_the_other_components_come_along(finished: tuple[str, Job]) -> None:
    kind, job = finished
    before, after = folder_sha256(job.dense.root), folder_sha256(job.compressed.root)
    changed = ("unet/", *(("vae/", "model_index.json") if kind in DECODED else ()))
    beside = {name for name in before if not name.startswith(changed)}
    assert {name: before[name] for name in beside} == {name: after[name] for name in after if name in beside}
    widths = job.compressed.config["block_out_channels"]
    assert widths[-1] == 24
    if kind != "class":  # no stock pipeline holds a class embedding
        options = {"safety_checker": None} if kind == "caption" else {}
        pipeline = DiffusionPipeline.from_pretrained(job.compressed.root, **options)
        assert list(pipeline.unet.config.block_out_channels) == widths
        if kind in DECODED:
            assert (pipeline.vae.encoder.conv_in.out_channels, pipeline.vae.decoder.conv_in.out_channels) == (8, 4)
        if kind == "sdxl":
            image = pipeline("a cat", num_inference_steps=2, output_type="np").images
            assert image.shape == (1, 16, 16, 3) and np.isfinite(image).all()


def test_latents_are_in_the_cache_and_encoded_once(finished: tuple[str, Job]) -> None:
    _, job = finished
    (folder,) = (job.run.path / "cache" / "latents").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00000000-mirrored.npy", "00000000.npy"]
    latents = np.load(folder / "00000000.npy")
    assert latents.shape == (24, *latents.shape[1:]) and latents.shape[2:] == (8, 8)


def test_figures_and_pictures_are_of_decoded_images(finished: tuple[str, Job]) -> None:
    kind, job = finished
    metrics = json.loads((job.run.path / "evaluate" / "metrics.json").read_text())
    expected = {"unconditional": "takes none"}.get(kind, "those of the reference images")
    assert expected in metrics["conditions"]
    assert metrics["settings"]["guidance"] == GUIDED[kind]
    assert all(np.isfinite(metrics["prediction_errors"]["dense"]))
    (shard, *_) = (job.run.path / "cache" / "samples").rglob("*.npy")
    assert np.load(shard).shape == (8, 16, 16, 3)
    assert Image.open(job.run.path / "evaluate" / "pairs.png").width >= 8 * 16


def test_exports_are_judged_by_decoded_images(finished: tuple[str, Job]) -> None:
    """The PSNR is that of what diffusers' own autoencoder makes of the latents."""
    kind, job = finished
    if kind != WHOLE:
        return
    files = {path.stem for path in (job.run.path / "export" / "onnx").glob("*.onnx")}
    assert files == {"dense", "compressed", "compressed_step", "conditioner", "decoder", "encoder"}
    vae = AutoencoderKLFlux2.from_pretrained(job.compressed.root / "vae")
    specs = input_specs(job.compressed.class_name, job.compressed.config, tokens=context_tokens(job.compressed))
    given = {n: v for n, v in example_inputs(specs, 2).items() if n not in ("sample", "timestep")}
    denoiser, scheduler = load_denoiser(job.compressed), load_scheduler(job.compressed)

    def predict(sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        return denoiser(sample, timestep, **keywords(given)).sample

    export = job.run.path / "export"
    with torch.no_grad(), closing(open_runner("onnxruntime", export / "onnx" / "compressed.onnx")) as runner:
        latents = [
            sample(candidate, scheduler, [0, 1], specs["sample"].shape, 2, conditioning=given)
            for candidate in (predict, runner)
        ]
        images = [vae.decode(each / vae.config.scaling_factor).sample for each in latents]
    found = json.loads((export / "parity.json").read_text())["parity"]["compressed"]["fp16"]["loop"]["psnr_db"]
    assert found == pytest.approx(psnr_db(*images), abs=0.2)
    assert found != pytest.approx(psnr_db(*latents), abs=0.2), "the case does not tell images from latents"


def psnr_db(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    errors = (one.clamp(-1, 1) - other.clamp(-1, 1)).double().square().flatten(1).mean(1)
    return (10 * torch.log10(4 / errors)).tolist()


def test_the_loop_is_measured_with_guidance(finished: tuple[str, Job]) -> None:
    kind, job = finished
    if kind == WHOLE:
        profile = json.loads((job.run.path / "profile" / "profile.json").read_text())
        assert profile["runners"]["torch"]["loop"]["calls_a_step"] == 2
        loop, decoder = profile["runners"]["torch"]["loop"], profile["decoder"]
        for which in ("dense", "compressed"):
            spent = {name: timed[which]["p50_ms"] for name, timed in (("loop", loop), ("decoder", decoder))}
            assert decoder["share"]["torch"][which] == pytest.approx(spent["decoder"] / sum(spent.values()))


def test_a_second_run_of_the_same_does_nothing(finished: tuple[str, Job]) -> None:
    _, job = finished
    before = file_sha256(job.run.path / "run.json")
    again = open_job(job.run.path)
    for stage in ("prune", "recover", "evaluate"):
        stages.STAGES[stage](again)
    assert file_sha256(job.run.path / "run.json") == before


def test_guidance_is_refused_where_nothing_leads_away(finished: tuple[str, Job]) -> None:
    kind, job = finished
    if GUIDED[kind] == 1:
        for stage in ("evaluate", "profile"):
            changed = with_options(job, stage, {"guidance": 2.0})
            with pytest.raises((UsageError, DtkError), match="cannot be sampled with guidance 2"):
                stages.STAGES[stage](changed)
