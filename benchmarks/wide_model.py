"""Write a UNet2DModel of 128 and 256 channels for 16x16 gray images, with random weights: latency needs no training.

python benchmarks/wide_model.py MODEL
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

CONFIG = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (128, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 32,
    "attention_head_dim": 32,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    torch.manual_seed(0)
    DDPMPipeline(UNet2DModel(**CONFIG), DDPMScheduler()).save_pretrained(parser.parse_args().model)


if __name__ == "__main__":
    main()
