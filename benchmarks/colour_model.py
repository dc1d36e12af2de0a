"""Write a small DDPM for 32x32 colour images, not yet trained: ``python benchmarks/colour_model.py MODEL [WIDTHS]``.

WIDTHS are those of its four levels, 32,64,96,128 if they are not named.
3.6 M parameters on four levels, few enough for a CPU to train in some hours, and widths that reach 0.30 of the MACs.
``python -m benchmarks.cifar10 prepare`` makes the images, ``dtk run benchmarks/recipes/colour-train.yaml`` trains.
"""

from __future__ import annotations

import sys

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel


def main(folder: str, widths: str = "32,64,96,128") -> None:
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=32,
        block_out_channels=tuple(map(int, widths.split(","))),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    DDPMPipeline(network, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
