"""CompVis latent diffusion (Rombach et al. 2022): denoiser, autoencoder, class embedder and schedule in one file.

diffusers' own key maps (diffusers.loaders.single_file_utils) are used; what they need as input, the configuration,
is read off the tensors. Known are LDM-4 on classes (UNet2DConditionModel with the class embedder next to it) and the
unconditional models (UNet2DModel). Text models belong to diffusers' own ``from_single_file``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import save_file

from toolkit.core.errors import DtkError
from toolkit.importing.checkpoint import Tensors, fill
from toolkit.models.conditioning import CLASS_EMBEDDING

NAME = "CompVis latent diffusion"
UNET, AUTOENCODER, CLASSES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.embedding.weight"
CODEBOOK = "quantize.embedding.weight"
HEAD_SIZE = 32  # num_head_channels of the published unconditional models; those on classes have a single head
SCHEDULE_TOLERANCE = 1e-5  # the buffers are float32


def recognises(tensors: Tensors) -> bool:
    """Whether these are the tensors of a latent diffusion model of CompVis."""
    return f"{UNET}input_blocks.0.0.weight" in tensors


def write(tensors: Tensors, target: Path, size: int | None) -> dict[str, Any]:
    """Write component folders; returns what was made. ``size`` is the side of the latents, None = 64."""
    scheduler = read_schedule(tensors)
    denoiser = read_denoiser(tensors, size or 64)
    denoiser.save_pretrained(target / "unet")
    scheduler.save_pretrained(target / "scheduler")
    if f"{AUTOENCODER}quant_conv.weight" in tensors:
        autoencoder = read_autoencoder(tensors)
        autoencoder.save_pretrained(target / ("vqvae" if isinstance(autoencoder, VQModel) else "vae"))
    if CLASSES in tensors:
        save_file({"embedding.weight": tensors[CLASSES].contiguous()}, target / CLASS_EMBEDDING)
    return {
        "class": type(denoiser).__name__,
        "sample_size": denoiser.config["sample_size"],
        "params": denoiser.num_parameters(),
    }


@dataclass(frozen=True)
class _Shape:
    """What the tensors say of the denoiser: width and blocks of each level, and which levels attend."""

    widths: tuple[int, ...]
    layers: int
    attends: tuple[bool, ...]


def read_denoiser(tensors: Tensors, size: int) -> ModelMixin:
    """The denoiser, float32; raises DtkError for one that is conditioned on text, or of another make."""
    own = {name.removeprefix(UNET): tensor for name, tensor in tensors.items() if name.startswith(UNET)}
    shape = _read_shape(own)
    common = {
        "sample_size": size,
        "in_channels": own["input_blocks.0.0.weight"].shape[1],
        "out_channels": own["out.2.weight"].shape[0],
        "block_out_channels": shape.widths,
        "layers_per_block": shape.layers,
        "norm_num_groups": 32,
    }
    context = next((t.shape[1] for name, t in own.items() if name.endswith("attn2.to_k.weight")), None)
    if context is None:
        config = common | {"attention_head_dim": HEAD_SIZE} | _blocks(shape, "AttnDownBlock2D", "AttnUpBlock2D")
        return fill(UNet2DModel, config, _split_attention(_converted(tensors, config)))
    if CLASSES not in tensors or tensors[CLASSES].shape[1] != context:
        raise DtkError(
            "This latent diffusion model is conditioned on something else than classes.",
            found=f"a context {context} wide and no class embedder of that width",
            do="for Stable Diffusion: diffusers' StableDiffusionPipeline.from_single_file, then save_pretrained",
        )
    config = common | {"cross_attention_dim": context, "attention_head_dim": 1}
    config |= _blocks(shape, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    return fill(UNet2DConditionModel, config, _converted(tensors, config))


def _converted(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    converted: Tensors = convert_ldm_unet_checkpoint(
        {name: tensor for name, tensor in tensors.items() if name.startswith(UNET)}, config
    )
    return converted


def _blocks(shape: _Shape, down: str, up: str) -> dict[str, tuple[str, ...]]:
    return {
        "down_block_types": tuple(down if attends else "DownBlock2D" for attends in shape.attends),
        "up_block_types": tuple(up if attends else "UpBlock2D" for attends in reversed(shape.attends)),
    }


def _read_shape(own: Tensors) -> _Shape:
    """Walk the input blocks: convolution, then the blocks of a level, then its downsampling, and so on."""
    count = len({name.split(".")[1] for name in own if name.startswith("input_blocks.")})
    widths, attends, layers = [0], [False], [0]
    for number in range(1, count):
        prefix = f"input_blocks.{number}."
        if f"{prefix}0.op.weight" in own:
            widths, attends, layers = [*widths, 0], [*attends, False], [*layers, 0]
        elif f"{prefix}0.out_layers.3.weight" in own:
            widths[-1] = own[f"{prefix}0.out_layers.3.weight"].shape[0]
            attends[-1] = f"{prefix}1.norm.weight" in own
            layers[-1] += 1
    if len(set(layers)) != 1 or not all(widths):
        raise DtkError("The levels of this latent diffusion model are not equal in blocks.", found=layers)
    return _Shape(tuple(widths), layers[0], tuple(attends))


def _split_attention(tensors: Tensors) -> Tensors:
    """Queries, keys and values of unconditional models lie in one 1-d convolution, head after head."""
    converted: Tensors = {}
    for name, tensor in tensors.items():
        place, _, leaf = name.rpartition(".")
        flat = tensor.squeeze(-1) if tensor.ndim == 3 else tensor
        if place.endswith(".qkv"):
            thirds = flat.unflatten(0, (-1, 3, HEAD_SIZE)).unbind(1)
            for part, rows in zip(("to_q", "to_k", "to_v"), thirds, strict=True):
                converted[f"{place.removesuffix('qkv')}{part}.{leaf}"] = rows.flatten(0, 1)
        elif ".attentions." in name:
            renamed = place.replace(".norm", ".group_norm").replace(".proj_out", ".to_out.0")
            converted[f"{renamed}.{leaf}"] = flat
        else:
            converted[name] = tensor
    return converted


def read_autoencoder(tensors: Tensors) -> ModelMixin:
    """The autoencoder between images and latents: a VQModel if it has a codebook, else an AutoencoderKL."""
    own = {name.removeprefix(AUTOENCODER): t for name, t in tensors.items() if name.startswith(AUTOENCODER)}
    levels = len({name.split(".")[2] for name in own if name.startswith("encoder.down.")})
    scale, codebook, channels = tensors.get("scale_factor"), own.get(CODEBOOK), own["quant_conv.weight"].shape[1]
    config = {
        "block_out_channels": tuple(own[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
        "layers_per_block": len({n.split(".")[4] for n in own if n.startswith("encoder.down.0.block.")}),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": channels // 2 if codebook is None else channels,  # KL: a mean and a variance of each
        "scaling_factor": 1.0 if scale is None else float(scale),
    }
    wanted = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{AUTOENCODER}loss.")}
    converted = convert_ldm_vae_checkpoint(wanted, config)
    if codebook is None:
        return fill(AutoencoderKL, config, converted)
    config |= {"num_vq_embeddings": codebook.shape[0], "vq_embed_dim": codebook.shape[1]}
    return fill(VQModel, config, converted | {CODEBOOK: codebook})


def read_schedule(tensors: Tensors) -> DDIMScheduler:
    """The noise schedule, from the buffer of betas that lies among the tensors."""
    betas = tensors.get("betas")
    if betas is None:
        raise DtkError("The checkpoint holds no noise schedule.", expected="a tensor named betas")
    first, last = float(betas[0]), float(betas[-1])
    known = torch.linspace(first**0.5, last**0.5, len(betas), dtype=torch.float64).square()
    if not torch.allclose(known, betas.double(), rtol=SCHEDULE_TOLERANCE, atol=0):
        raise DtkError("dtk does not know this noise schedule.", expected="betas whose square roots rise evenly")
    return DDIMScheduler(
        num_train_timesteps=len(betas),
        beta_start=round(first, 7),
        beta_end=round(last, 7),
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
