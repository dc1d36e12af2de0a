"""The architectures every law of pruning is stated over."""

from __future__ import annotations

from toolkit.noise import generator
from toolkit.pruning.adapters.base import Limits
from toolkit.pruning.engine import Engine
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
}


def random_scores(engine: Engine, seed: int = 0) -> Scores:
    return {n: generator(f"test {n}", seed).random(g.size) + 0.01 for n, g in engine.layout.groups.items()}


def engine_of(config: dict, groups: str = "within") -> Engine:
    return Engine("UNet2DModel", config, Limits(align=4, groups=groups))
