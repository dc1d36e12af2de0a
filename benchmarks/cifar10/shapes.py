"""The paper's denoisers as diffusers folders with fresh weights; --toy keeps what is special in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file

from toolkit.models.conditioning import CLASS_EMBEDDING


def _ddpm(size: int, widths: tuple[int, ...], attention: int) -> dict[str, Any]:
    down = ["DownBlock2D"] * len(widths)
    down[attention] = "AttnDownBlock2D"
    return {
        "sample_size": size,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }


LDM4 = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (192, 384, 576, 960),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    "cross_attention_dim": 512,
    "attention_head_dim": 1,  # one head at every attention: num_heads of the published configuration
}
LDM4_CLASSES = 1001  # the null class included; the context is a row of their embedding, one token
SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "cifar10-32": (UNet2DModel, _ddpm(32, (128, 256, 256, 256), 1)),
    "lsun-256": (UNet2DModel, _ddpm(256, (128, 128, 256, 256, 512, 512), 4)),
    "ldm4-64": (UNet2DConditionModel, LDM4),
}


def _toy(config: dict[str, Any]) -> dict[str, Any]:
    """The same with one level for each kind of block; where blocks attend to a context, for those alone."""
    kinds = tuple(dict.fromkeys(config["down_block_types"]))
    down = tuple(name for name in kinds if "CrossAttn" in name) or kinds
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    blocks = {"down_block_types": down, "up_block_types": up, "block_out_channels": (16, 32)[-len(down) :]}
    return config | {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 4} | blocks


def write_shape(name: str, folder: Path, toy: bool = False) -> Path:
    """Write the shape as a folder that dtk opens, once; returns the folder."""
    if not folder.is_dir():
        kind, config = SHAPES[name]
        torch.manual_seed(0)
        model = kind(**(_toy(config) if toy else config))
        scheduler = DDPMScheduler(num_train_timesteps=20 if toy else 1000)
        if kind is UNet2DModel:
            DDPMPipeline(model, scheduler).save_pretrained(folder)
        else:
            model.save_pretrained(folder / "unet")
            scheduler.save_pretrained(folder / "scheduler")
            embedding = torch.randn(LDM4_CLASSES, model.config.cross_attention_dim)
            save_file({"embedding": embedding}, folder / CLASS_EMBEDDING)
    return folder
