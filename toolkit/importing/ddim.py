"""The DDIM code base (Song, Meng, Ermon 2021), in which DDPM's and Diff-Pruning's own CIFAR-10, CelebA and LSUN
checkpoints are: ``temb.dense.N``, ``down.N.block.M``, ``mid``, ``up.N`` (level N, not place N), ``conv_out``.

Everything the network's shape says is read off the tensors. They do not say the image size; attention does, since all
configurations of that code base attend at 16x16.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from toolkit.core.errors import DtkError
from toolkit.importing.checkpoint import Tensors, fill

NAME = "DDIM"
ATTENDS_AT = 16
NORM_GROUPS, NORM_EPS = 32, 1e-6
BETAS = (1e-4, 0.02)
TOP = {
    "temb.dense.0.": "time_embedding.linear_1.",
    "temb.dense.1.": "time_embedding.linear_2.",
    "conv_in.": "conv_in.",
    "mid.block_1.": "mid_block.resnets.0.",
    "mid.block_2.": "mid_block.resnets.1.",
    "mid.attn_1.": "mid_block.attentions.0.",
    "norm_out.": "conv_norm_out.",
    "conv_out.": "conv_out.",
}
INNER = {
    "temb_proj.": "time_emb_proj.",
    "nin_shortcut.": "conv_shortcut.",
    "norm.": "group_norm.",
    "q.": "to_q.",
    "k.": "to_k.",
    "v.": "to_v.",
    "proj_out.": "to_out.0.",
}
PLACES = {
    "block": "resnets.{}.",
    "attn": "attentions.{}.",
    "downsample": "downsamplers.0.",
    "upsample": "upsamplers.0.",
}


def recognises(tensors: Tensors) -> bool:
    """Whether these are the tensors of a network of this code base."""
    return {"temb.dense.0.weight", "conv_in.weight", "norm_out.weight"} <= tensors.keys()


def write(tensors: Tensors, target: Path, size: int | None) -> dict[str, Any]:
    """Write a DDPMPipeline folder; returns what was made. ``size`` is the image's side, None = by its attention."""
    config = read_config(tensors, size)
    levels = len(config["block_out_channels"])
    named = {_renamed(name, levels): tensor for name, tensor in tensors.items()}
    model = fill(UNet2DModel, config, {name: _as_linear(name, tensor) for name, tensor in named.items()})
    variance = "fixed_small" if config["sample_size"] >= 256 else "fixed_large"  # as that code base's configurations
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        variance_type=variance,
        clip_sample=True,
    )
    DDPMPipeline(model, scheduler).save_pretrained(target)
    return {"class": "UNet2DModel", "sample_size": config["sample_size"], "params": model.num_parameters()}


def read_config(tensors: Tensors, size: int | None) -> dict[str, Any]:
    """The UNet2DModel configuration these tensors are of; raises DtkError if they do not say it."""
    levels = _count(tensors, r"down\.(\d+)\.block\.")
    layers = _count(tensors, r"down\.0\.block\.(\d+)\.")
    attends = [any(name.startswith(f"down.{level}.attn.") for name in tensors) for level in range(levels)]
    if size is None and sum(attends) != 1:
        raise DtkError(
            "The tensors do not say what size of image this model is for.",
            found=f"attention on {sum(attends)} levels",
            expected=f"attention on the one of {ATTENDS_AT}x{ATTENDS_AT}",
            do="give the side of its images with --size",
        )
    if any("conv_shortcut" in name for name in tensors) or not any("downsample.conv" in name for name in tensors):
        raise DtkError(
            "diffusers has no UNet2DModel like this one.",
            expected="1x1 shortcuts and learned downsampling, as in the published configurations",
        )
    return {
        "sample_size": size or ATTENDS_AT * 2 ** attends.index(True),
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "block_out_channels": tuple(tensors[f"down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)),
        "layers_per_block": layers,
        "down_block_types": tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in attends),
        "up_block_types": tuple("AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)),
        "attention_head_dim": None,
        "norm_num_groups": NORM_GROUPS,
        "norm_eps": NORM_EPS,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def _count(tensors: Tensors, pattern: str) -> int:
    numbers = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    return len(numbers)


def _renamed(name: str, levels: int) -> str:
    for old, new in TOP.items():
        if name.startswith(old):
            return new + _inner(name.removeprefix(old))
    match = re.fullmatch(r"(down|up)\.(\d+)\.(block|attn|downsample|upsample)(?:\.(\d+))?\.(.+)", name)
    if match is None:
        return name  # an unknown tensor, which the model will refuse
    side, level, kind, number, rest = match.groups()
    place = int(level) if side == "down" else levels - 1 - int(level)
    return f"{side}_blocks.{place}.{PLACES[kind].format(number)}{_inner(rest)}"


def _inner(rest: str) -> str:
    return next((new + rest.removeprefix(old) for old, new in INNER.items() if rest.startswith(old)), rest)


def _as_linear(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Attention's 1x1 convolutions are linear layers in diffusers."""
    is_projection = ".attentions." in name and tensor.ndim == 4
    return tensor[:, :, 0, 0] if is_projection else tensor
