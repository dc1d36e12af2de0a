"""Published configurations with their sizes."""

from __future__ import annotations

from tests.pruning.cases import A, B, D, U

DDPM = {"layers_per_block": 2, "downsample_padding": 0, "norm_eps": 1e-6, "attention_head_dim": None}


PUBLISHED = {
    "cifar10-32": (
        {**DDPM, "sample_size": 32, "block_out_channels": (128, 256, 256, 256)}
        | {"down_block_types": (D, A, D, D), "up_block_types": (U, U, B, U)},
        (35_746_307, 6.222e9, 20_725_379, 3.533e9),
    ),
    "celeba-64": (
        {**DDPM, "sample_size": 64, "block_out_channels": (128, 256, 256, 256, 512)}
        | {"down_block_types": (D, D, A, D, D), "up_block_types": (U, U, B, U, U)},
        (78.70e6, 24.051e9, 45_187_523, 13.566e9),
    ),
    "lsun-256": (
        {**DDPM, "sample_size": 256, "block_out_channels": (128, 128, 256, 256, 512, 512)}
        | {"down_block_types": (D, D, D, D, A, D), "up_block_types": (U, B, U, U, U, U)},
        (113_673_219, 248.514e9, 65_048_579, 139.939e9),
    ),
}
