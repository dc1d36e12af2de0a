"""Samples of latent and conditional models are those of the stock pipelines, from the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LDMPipeline, StableDiffusionPipeline

from tests.latent import FOLDERS, tiny_class_ldm, tiny_labelled, tiny_ldm, tiny_stable_diffusion
from toolkit.core.errors import UsageError
from toolkit.core.noise import generator, sample_noise
from toolkit.data.conditions import Conditions
from toolkit.data.images import Images
from toolkit.evaluation.artefact import SamplingSettings
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.evaluation.samples import sample_images
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder

STEPS = 4
CAPTIONS = ("a cat", "a dog", None, "two cats")


def reference(kind: str = "caption", values: tuple = CAPTIONS) -> Images:
    pixels = generator("reference", 0).integers(0, 256, (len(values), 16, 16, 3), dtype=np.uint8)
    numbers = tuple(range(len(values)))
    return Images("test", (3, 16, 16), "0", numbers, lambda n: pixels[n], described=Conditions({kind: values}))


def samples(
    model: ModelFolder, cache: Path, guidance: float = 1.0, images: Images | None = None, **other
) -> np.ndarray:
    plan = SamplingSettings(**({"sampler": "ddim", "steps": STEPS, "seed": 0, "guidance": guidance} | other))
    return sample_images(model, plan, 4, cache, conditions=SampleConditions(find_conditioning(model), 0, images))


def as_pixels(images: np.ndarray) -> np.ndarray:
    return (images * 255).round().astype(np.uint8)


def assert_same_pictures(first: np.ndarray, second: np.ndarray) -> None:
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1
    assert len(np.unique(first)) > 20, "a flat picture proves nothing"


def test_unconditional_latents_are_ldm_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_ldm(tmp_path / "model")
    pipeline = LDMPipeline.from_pretrained(model.root)
    noise = torch.from_numpy(sample_noise(range(4), 0, (3, 8, 8)))
    where = "diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond.randn_tensor"
    monkeypatch.setattr(where, lambda *_, **__: noise)
    expected = pipeline(batch_size=4, num_inference_steps=STEPS, output_type="np").images
    assert_same_pictures(samples(model, tmp_path), as_pixels(expected))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_captions_and_guidance_are_stable_diffusions(tmp_path: Path, guidance: float) -> None:
    model = tiny_stable_diffusion(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(model.root, safety_checker=None)
    expected = pipeline(
        [caption or "" for caption in CAPTIONS],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        latents=torch.from_numpy(sample_noise(range(4), 0, (4, 8, 8))),
        height=16,
        width=16,
        output_type="np",
    ).images
    assert_same_pictures(samples(model, tmp_path, guidance, reference()), as_pixels(expected))


def test_guidance_changes_images_and_one_is_none(tmp_path: Path) -> None:
    model = tiny_class_ldm(tmp_path / "model")
    plain, guided = (samples(model, tmp_path, scale).astype(int) for scale in (1.0, 4.0))
    assert np.abs(plain - guided).max() > 10
    null = samples(model, tmp_path, 0.0, reference("class", (0, 1, 2, 0)))
    assert_same_pictures(null, samples(model, tmp_path, 1.0, reference("class", (None,) * 4)))


@pytest.mark.parametrize("kind", FOLDERS)
def test_batch_size_changes_no_image(tmp_path: Path, kind: str) -> None:
    model = FOLDERS[kind](tmp_path / "model")
    guidance = 2.0 if find_conditioning(model).has_null else 1.0
    whole = samples(model, tmp_path / "a", guidance)
    assert whole.shape == (4, 16, 16, 3)
    for size in (1, 3):
        assert_same_pictures(samples(model, tmp_path / str(size), guidance, batch_size=size), whole)


def test_a_sample_gets_the_condition_of_the_reference_image(tmp_path: Path) -> None:
    found = find_conditioning(tiny_class_ldm(tmp_path / "model"))
    images = reference("class", (2, 0, 1)).subset([1, 2])
    conditions = SampleConditions(found, 0, images)
    assert conditions(range(5)) == [0, 1, 0, 1, 0]
    assert conditions.origin == "those of the reference images"
    other = reference("class", (1, 0, 1)).subset([1, 2])
    assert SampleConditions(found, 0, other).key != conditions.key
    assert "drawn" in SampleConditions(found, 0, reference("caption")).origin


@pytest.mark.parametrize(("make", "words"), [(tiny_ldm, "without conditions"), (tiny_labelled, "without a null class")])
def test_guidance_away_from_nothing_is_refused(tmp_path: Path, make, words: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot be sampled with guidance 2[\s\S]*{words}"):
        samples(make(tmp_path / "model"), tmp_path, 2.0)
