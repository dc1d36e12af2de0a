"""Latent models at sizes that cost nothing: a pipeline folder for each kind of autoencoder and of conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny import (
    SMALLEST,
    SMALLEST_CONTEXT,
    TWO_CONTEXT_LEVELS,
    randomise,
    text_time,
    tiny_conditional_unet,
    tiny_unet,
)
from toolkit.core.noise import normal
from toolkit.models.folder import ModelFolder, find_model

CLASSES = 3
WIDTH = 12  # of the context
ONE_LEVEL = SMALLEST | {"block_out_channels": (32,), "down_block_types": ("AttnDownBlock2D",)}
LEVELS = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def tiny_vq(seed: int = 0) -> VQModel:
    """Images (3, 16, 16) to latents (3, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VQModel(latent_channels=3, num_vq_embeddings=32, scaling_factor=0.7, **LEVELS)
    return randomise(model, seed)


def tiny_kl(seed: int = 0) -> AutoencoderKL:
    """Images (3, 16, 16) to latents (4, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoencoderKL(latent_channels=4, scaling_factor=0.5, **LEVELS)
    return randomise(model, seed)


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with single bytes as its only words."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=10)


def tiny_text_encoder(
    tokenizer: CLIPTokenizer, seed: int = 0, kind: type[torch.nn.Module] = CLIPTextModel, **overrides: int
) -> torch.nn.Module:
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 10,
        "bos_token_id": len(tokenizer) - 2,
        "eos_token_id": len(tokenizer) - 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(CLIPTextConfig(**(config | overrides)))
    return randomise(model, seed)


def tiny_sdxl(path: Path, seed: int = 0) -> ModelFolder:
    """The shape of SDXL: two text encoders, the second of another width, with a projection and another padding."""
    first, second = tiny_tokenizer(), tiny_tokenizer()
    second.pad_token = "!"
    context = 2 * WIDTH + 4
    added = {"cross_attention_dim": context, "transformer_layers_per_block": (1,), **text_time(6, pooled=6)}
    unet = tiny_conditional_unet(seed, **SMALLEST_CONTEXT, **added)
    StableDiffusionXLPipeline(
        vae=tiny_kl(seed),
        text_encoder=tiny_text_encoder(first, seed),
        text_encoder_2=tiny_text_encoder(
            second, seed + 1, kind=CLIPTextModelWithProjection, hidden_size=WIDTH + 4, projection_dim=6
        ),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler(steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(path)
    return find_model(path)


def scheduler(steps_offset: int = 0) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=20, clip_sample=False, steps_offset=steps_offset)


def tiny_ldm(path: Path, seed: int = 0) -> ModelFolder:
    """The shape of LDM CelebA-HQ: VQModel and an unconditional UNet2DModel, as LDMPipeline holds them."""
    LDMPipeline(tiny_vq(seed), tiny_unet(seed, **ONE_LEVEL), scheduler()).save_pretrained(path)
    return find_model(path)


def tiny_class_ldm(path: Path, seed: int = 0) -> ModelFolder:
    """The shape of LDM-4 ImageNet: VQModel, UNet2DConditionModel, and the class embedding next to their folders."""
    tiny_vq(seed).save_pretrained(path / "vqvae")
    shape = {**SMALLEST_CONTEXT, "in_channels": 3, "out_channels": 3, "cross_attention_dim": WIDTH}
    tiny_conditional_unet(seed, **shape).save_pretrained(path / "unet")
    scheduler().save_pretrained(path / "scheduler")
    table = torch.from_numpy(normal("class embedding", seed, shape=(CLASSES + 1, WIDTH)))
    save_file({"embedding.weight": table}, path / "class_embedding.safetensors")
    return find_model(path)


def tiny_labelled(path: Path, seed: int = 0) -> ModelFolder:
    """Class labels that the denoiser embeds by itself, without a null class, on latents."""
    unet: UNet2DModel = tiny_unet(seed, num_class_embeds=CLASSES, **ONE_LEVEL)
    LDMPipeline(tiny_vq(seed), unet, scheduler()).save_pretrained(path)
    return find_model(path)


def tiny_stable_diffusion(path: Path, seed: int = 0, shape: Mapping[str, object] = TWO_CONTEXT_LEVELS) -> ModelFolder:
    """The shape of Stable Diffusion: AutoencoderKL, CLIP's text encoder and UNet2DConditionModel."""
    tokenizer = tiny_tokenizer()
    unet: UNet2DConditionModel = tiny_conditional_unet(seed, cross_attention_dim=WIDTH, **shape)
    StableDiffusionPipeline(
        vae=tiny_kl(seed),
        text_encoder=tiny_text_encoder(tokenizer, seed),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return find_model(path)


FOLDERS: dict[str, Callable[[Path], ModelFolder]] = {
    "unconditional": tiny_ldm,
    "class": tiny_class_ldm,
    "labels": tiny_labelled,
    "caption": partial(tiny_stable_diffusion, shape=SMALLEST_CONTEXT),
    "sdxl": tiny_sdxl,
}
