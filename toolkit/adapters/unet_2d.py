"""UNet2DModel: the DDPM and unconditional LDM denoiser. Its config fixes the size of an attention head."""

from __future__ import annotations

import math

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import NoBlocks
from toolkit.adapters.space import Config, Space
from toolkit.adapters.unet import class_labels, refuse_unknown_parts, width_space

KNOWN_BLOCKS = {
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "UNetMidBlock2D",
}


class UNet2DAdapter:
    """Level widths of UNet2DModel; attention loses whole heads, or shrinks if it has a single one."""

    class_name = "UNet2DModel"
    component = "unet"
    has_widths, null_class = True, False
    blocks = NoBlocks()  # this class has one number of layers for all levels

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        return class_labels(config)

    def space(self, config: Config, limits: Constraints) -> Space:
        norm_groups = math.lcm(config["norm_num_groups"] or 0, config["attn_norm_num_groups"] or 1)
        refuse_unknown_parts(config, KNOWN_BLOCKS, norm_groups)
        head_size = config["attention_head_dim"] or 1
        return width_space(config, limits, [head_size] * len(config["block_out_channels"]), norm_groups)

    def whole_heads(self, config: Config) -> bool:
        return config["attention_head_dim"] is not None


ADAPTER = UNet2DAdapter()
