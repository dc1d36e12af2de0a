"""Real diffusers classes at sizes that cost nothing, with every parameter randomised.

Fresh norms have weight 1 and bias 0 and a fresh last layer may be zero: both hide mistakes, so no parameter keeps its
initial value.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from toolkit.core.noise import normal
from toolkit.models.decoder import ImageDecoder
from toolkit.models.folder import ModelFolder, find_model

PLAIN: dict[str, object] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "add_attention": False,
}
"""Overrides of ``tiny_unet`` for tests of what stands around a network: its graph is half as large, and so is the time
of an export."""
SMALLEST: dict[str, object] = {
    "block_out_channels": (16,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
    "add_attention": False,
}
"""The same of one level without a middle: half as large again."""
ONE_BLOCK: dict[str, object] = SMALLEST | {"up_block_types": ("AttnUpBlock2D",), "layers_per_block": 0}
"""The same of one residual block and its attention, where each operator takes a compiler a second."""
TWO_LEVELS: dict[str, object] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
"""The same with attention, where operators matter and levels do not."""
TWO_CONTEXT_LEVELS: dict[str, object] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
"""The same for ``tiny_conditional_unet``."""
SMALLEST_CONTEXT: dict[str, object] = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
}
"""One level that attends to the context once."""


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Shift every parameter by normal values of its own size, keyed by its number; returns the model in eval mode."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            spread = max(float(parameter.std(correction=0)), 0.1)
            shift = normal("tiny", seed, number, shape=tuple(parameter.shape))
            parameter.add_(torch.from_numpy(shift), alpha=0.5 * spread)
    return model.eval()


def tiny_unet(seed: int = 0, **overrides: object) -> UNet2DModel:
    """An unconditional UNet of three levels with attention on the last; ``overrides`` change its config."""
    config: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UNet2DModel(**(config | overrides))
    randomise(model, seed)
    return model


def tiny_conditional_unet(seed: int = 0, **overrides: object) -> UNet2DConditionModel:
    """A UNet of three levels with cross-attention on the last two; ``overrides`` change its config."""
    config: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UNet2DConditionModel(**(config | overrides))
    randomise(model, seed)
    return model


def text_time(ids: int, pooled: int = 12) -> dict[str, object]:
    """The fields of SDXL's added embedding; its refiner has five ids, and a context as wide as ``pooled``."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": pooled + 16 * ids,
    }


def tiny_dit(seed: int = 0, **overrides: object) -> DiTTransformer2DModel:
    """A class-conditional transformer of five blocks with a learned variance; ``overrides`` change its config."""
    config: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 5,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_embeds_ada_norm": 10,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DiTTransformer2DModel(**(config | overrides))
    randomise(model, seed)
    return model


def tiny_decoder(seed: int = 0, **overrides: object) -> ImageDecoder:
    """A decoder of two levels with attention between them; ``overrides`` change its config."""
    config: dict[str, object] = {
        "sample_size": (8, 8),
        "in_channels": 4,
        "out_channels": 3,
        "block_out_channels": (16, 32),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "act_fn": "silu",
        "mid_block_add_attention": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ImageDecoder(**(config | overrides))
    randomise(model, seed)
    return model


def tiny_folder(path: Path, seed: int = 0, **overrides: object) -> ModelFolder:
    """A diffusers pipeline folder at ``path`` around a tiny UNet."""
    DDPMPipeline(tiny_unet(seed, **overrides), DDPMScheduler(num_train_timesteps=100)).save_pretrained(path)
    return find_model(path)
