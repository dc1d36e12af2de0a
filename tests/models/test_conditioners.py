"""Conditions become what the denoiser was trained to take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from tests.latent import (
    CLASSES,
    FOLDERS,
    WIDTH,
    tiny_class_ldm,
    tiny_labelled,
    tiny_sdxl,
    tiny_stable_diffusion,
    tiny_text_encoder,
)
from tests.tiny import text_time, tiny_conditional_unet, tiny_folder
from toolkit.adapters.inputs import input_specs, keywords
from toolkit.core.errors import DtkError
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import Conditioning, context_tokens, find_conditioning
from toolkit.models.folder import find_model

FOUND = {
    "unconditional": Conditioning("none"),
    "class": Conditioning("class", CLASSES, True, 1),
    "labels": Conditioning("class", CLASSES, False, 0),
    "caption": Conditioning("caption", 0, True, 10),
    "sdxl": Conditioning("caption", 0, True, 10),
}
EXAMPLES = {"unconditional": [None, 0], "class": [2, None], "labels": [0, 2], "caption": ["a cat", None]}
EXAMPLES["sdxl"] = EXAMPLES["caption"]


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_denoiser_takes_what_its_conditioner_makes(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind](tmp_path)
    assert find_conditioning(folder) == FOUND[kind]
    conditioner = open_conditioner(folder)
    inputs = conditioner(EXAMPLES[kind])
    specs = input_specs(folder.class_name, folder.config, tokens=conditioner.conditioning.tokens)
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
        name: (2, *spec.shape) for name, spec in specs.items() if name not in ("sample", "timestep")
    }
    with torch.no_grad():
        prediction = load_denoiser(folder)(torch.zeros(2, *specs["sample"].shape), 3, **keywords(inputs)).sample
    assert prediction.isfinite().all()
    if kind != "unconditional":
        assert not torch.equal(prediction[0], prediction[1]), "the condition plays no part"


def test_captions_are_encoded_as_stable_diffusion_does(tmp_path: Path) -> None:
    folder = tiny_stable_diffusion(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    captions = ["a cat", "A  dog, and more words than fit", "a cat"]
    with torch.no_grad():
        expected, null = pipeline.encode_prompt(captions, "cpu", 1, True)
    encode = open_conditioner(folder)
    torch.testing.assert_close(encode(captions)["encoder_hidden_states"], expected)
    torch.testing.assert_close(encode([None])["encoder_hidden_states"], null[:1])
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.parametrize("zeros", [True, False])
def test_captions_are_encoded_as_sdxl_does(zeros: bool, tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        tmp_path, add_watermarker=False, force_zeros_for_empty_prompt=zeros
    )
    pipeline.save_pretrained(tmp_path)
    captions = ["a cat", "A  dog, and more words than fit", "a cat"]
    with torch.no_grad():
        context, null, pooled, null_pooled = pipeline.encode_prompt(captions, device="cpu")
    encode = open_conditioner(folder)
    found, nothing = encode(captions), encode([None])
    torch.testing.assert_close(found["encoder_hidden_states"], context)
    torch.testing.assert_close(found["text_embeds"], pooled)
    torch.testing.assert_close(nothing["encoder_hidden_states"], null[:1])
    torch.testing.assert_close(nothing["text_embeds"], null_pooled[:1])
    sizes = pipeline._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 6)
    assert torch.equal(found["time_ids"], sizes.expand(3, -1)) and torch.equal(nothing["time_ids"], sizes)


def test_the_refiner_takes_the_second_encoder_and_a_score(tmp_path: Path) -> None:
    base = tiny_sdxl(tmp_path / "base")
    pipeline = StableDiffusionXLPipeline.from_pretrained(base.root, add_watermarker=False)
    unet = tiny_conditional_unet(cross_attention_dim=WIDTH + 4, **text_time(5, pooled=WIDTH + 4))
    second = tiny_text_encoder(
        pipeline.tokenizer_2, 1, CLIPTextModelWithProjection, hidden_size=WIDTH + 4, projection_dim=WIDTH + 4
    )
    refiner = StableDiffusionXLImg2ImgPipeline(
        *(pipeline.vae, None, second, None, pipeline.tokenizer_2, unet, pipeline.scheduler),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    refiner.save_pretrained(tmp_path / "refiner")
    with torch.no_grad():
        context, null, pooled, null_pooled = refiner.encode_prompt(["a cat"], device="cpu")
    found = open_conditioner(find_model(tmp_path / "refiner"))(["a cat", None])
    torch.testing.assert_close(found["encoder_hidden_states"], torch.cat([context, null]))
    torch.testing.assert_close(found["text_embeds"], torch.cat([pooled, null_pooled]))
    size = (16, 16)
    given = refiner._get_add_time_ids(size, (0, 0), size, 6.0, 2.5, size, (0, 0), size, torch.float32, WIDTH + 4)
    assert torch.equal(found["time_ids"], torch.cat(given))


def test_sdxl_without_its_second_encoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path)
    shutil.rmtree(tmp_path / "text_encoder_2")
    with pytest.raises(DtkError, match=r"nothing next to it makes one[\s\S]*text_encoder_2/"):
        find_conditioning(folder)


def test_the_null_class_is_the_last_row(tmp_path: Path) -> None:
    folder = tiny_class_ldm(tmp_path)
    table = load_file(tmp_path / "class_embedding.safetensors")["embedding.weight"]
    found = open_conditioner(folder)([1, None])["encoder_hidden_states"]
    assert torch.equal(found, torch.stack([table[1], table[-1]])[:, None])


def test_an_embedding_may_say_that_it_has_no_null_class(tmp_path: Path) -> None:
    folder = tiny_class_ldm(tmp_path)
    save_file(
        {"table": torch.ones(5, WIDTH)}, tmp_path / "class_embedding.safetensors", metadata={"null_class": "none"}
    )
    assert find_conditioning(folder) == Conditioning("class", 5, False, 1)


@pytest.mark.parametrize(
    ("make", "condition", "words"),
    [
        (tiny_labelled, None, "no null class"),
        (tiny_labelled, CLASSES, r"not the model's[\s\S]*3[\s\S]*0 to 2"),
        (tiny_class_ldm, -1, "not the model's"),
        (tiny_class_ldm, "a cat", r"not the model's[\s\S]*'a cat'"),
        (tiny_stable_diffusion, 1, r"conditioned on captions[\s\S]*classes"),
    ],
)
def test_conditions_of_another_kind_are_refused(tmp_path: Path, make, condition, words: str) -> None:
    with pytest.raises(DtkError, match=words):
        open_conditioner(make(tmp_path))([condition])


def test_a_context_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    folder = tiny_class_ldm(tmp_path)
    (tmp_path / "class_embedding.safetensors").unlink()
    with pytest.raises(DtkError, match=r"nothing next to it makes one[\s\S]*class_embedding.safetensors"):
        find_conditioning(folder)
    assert context_tokens(folder) == 77
    assert context_tokens(tiny_folder(tmp_path / "pixels")) == 77


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": (4, WIDTH + 1)}, r"no class embedding of this denoiser[\s\S]*a \[4, 13\][\s\S]*\(classes \+ 1, 12\)"),
        ({"a": (4, WIDTH), "b": (1, 1)}, "no class embedding"),
        (None, "damaged"),
    ],
)
def test_a_class_embedding_that_does_not_fit_is_refused(tmp_path: Path, content, words: str) -> None:
    folder, path = tiny_class_ldm(tmp_path), tmp_path / "class_embedding.safetensors"
    if content is None:
        path.write_bytes(path.read_bytes()[:-40])
    else:
        save_file({name: torch.zeros(shape) for name, shape in content.items()}, path)
    with pytest.raises(DtkError, match=words):
        find_conditioning(folder)


def test_another_text_encoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_stable_diffusion(tmp_path)
    path = tmp_path / "text_encoder" / "config.json"
    path.write_text(path.read_text().replace('"CLIPTextModel"', '"T5EncoderModel"'))
    with pytest.raises(DtkError, match=r"does not know the text encoder[\s\S]*T5EncoderModel"):
        open_conditioner(folder)
