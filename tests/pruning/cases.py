"""The architectures every law of pruning is stated over."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from diffusers import ModelMixin

from profiles.macs import count_params
from profiles.recount import Recount
from tests.tiny import TWO_CONTEXT_LEVELS, text_time, tiny_conditional_unet, tiny_decoder, tiny_unet
from toolkit.adapters.base import Constraints
from toolkit.adapters.inputs import example_inputs, input_specs, keywords
from toolkit.core.noise import generator
from toolkit.models.build import build_model, plain_config
from toolkit.pruning.cost import Cost
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.selection import Scores

D, A, U, B = "DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"

UNETS: dict[str, dict[str, object]] = {
    "heads": {},
    "one-head": {"attention_head_dim": None, "downsample_padding": 0, "norm_eps": 1e-6},
    "two-layers": {"layers_per_block": 2, "block_out_channels": (16, 16, 32), "attention_head_dim": 4},
    "four-levels": {
        "sample_size": 16,
        "block_out_channels": (16, 32, 32, 48),
        "down_block_types": (D, A, D, D),
        "up_block_types": (U, U, B, U),
    },
    "scale-shift": {"resnet_time_scale_shift": "scale_shift"},
    "resnet-sampling": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "classes": {"num_class_embeds": 5},
    "attention-norms": {"attn_norm_num_groups": 4},
}

CONDITIONAL: dict[str, dict[str, object]] = {
    "context": {},
    "linear-projections": {"use_linear_projection": True, "attention_head_dim": (2, 4, 4)},
    "context-two-layers": {
        "layers_per_block": 2,
        "transformer_layers_per_block": 2,
        "attention_head_dim": 1,
        **TWO_CONTEXT_LEVELS,
    },
    "context-and-classes": {"num_class_embeds": 5},
    "sizes": {**text_time(6), "use_linear_projection": True},
}
DECODERS: dict[str, dict[str, object]] = {
    "decoder": {},
    "decoder-attending": {
        "block_out_channels": (16, 32, 32),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 2,
        "mid_block_add_attention": False,
    },
}
QUICK = ("heads", "classes", "context", "decoder")
DENOISERS, CASES = (
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]
    for names in ((*UNETS, *CONDITIONAL), (*UNETS, *CONDITIONAL, *DECODERS))
)
"""All architectures; laws that follow a network through its graph are stated for the quick ones in `make test`."""


def dense_model(name: str) -> ModelMixin:
    """The tiny dense model of a case, every parameter randomised."""
    if name in DECODERS:
        return tiny_decoder(**DECODERS[name])
    return tiny_unet(**UNETS[name]) if name in UNETS else tiny_conditional_unet(**CONDITIONAL[name])


def prunable_of(dense: ModelMixin, groups: str = "within", *, blocks: bool = False) -> Prunable:
    """The prunable of a tiny model; its dependency graph is traced once."""
    constraints = Constraints(align=4, groups=groups, blocks=blocks)
    return _prunable(type(dense).__name__, json.dumps(plain_config(dense.config)), constraints)


@cache
def _prunable(class_name: str, config: str, constraints: Constraints) -> Prunable:
    return Prunable(class_name, json.loads(config), constraints)


def random_scores(prunable: Prunable, seed: int = 0) -> Scores:
    """Scores that prefer no channel."""
    return {n: generator(f"test {n}", seed).random(g.size) + 0.01 for n, g in prunable.layout.groups.items()}


def inputs_of(dense: ModelMixin, timesteps: int = 100) -> dict[str, Any]:
    """Three items of everything the model takes, as its call takes them."""
    specs = input_specs(type(dense).__name__, dense.config, timesteps=timesteps, tokens=4)
    return keywords(example_inputs(specs, batch=3))


FREE = ("attention_head_dim", "block_out_channels", "freq_shift", "norm_num_groups", "time_embedding_dim")
FREE += ("layers_per_block", "transformer_layers_per_block")
"""Configurations that differ in nothing else are counted from one trace (tests/profiles/test_recount.py)."""
RECOUNTS: dict[str, Recount] = {}


def count(config: dict, class_name: str = "UNet2DModel", tokens: int = 1) -> Cost:
    """Parameters and MACs of a configuration."""
    return counted_once(json.dumps(config), class_name, tokens)


@cache
def counted_once(text: str, class_name: str, tokens: int) -> Cost:
    config = json.loads(text)
    network = build_model(class_name, config)
    architecture = json.dumps([class_name, tokens, {n: value for n, value in config.items() if n not in FREE}])
    if architecture not in RECOUNTS or not RECOUNTS[architecture]._knows(network):
        device = "meta" if count_params(network) > 1_000_000 else "cpu"  # where a small one is called in less time
        inputs = example_inputs(input_specs(class_name, config, tokens=tokens), batch=1, device=device)
        RECOUNTS[architecture] = Recount(build_model(class_name, config).to_empty(device=device), inputs)
    return Cost(count_params(network), sum(RECOUNTS[architecture](network).values()))
