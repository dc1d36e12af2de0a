"""UNet2DConditionModel: the denoiser of LDM-4 and Stable Diffusion.

``attention_head_dim`` is the *number* of heads in this class (diffusers keeps the name for old checkpoints), so heads
stay and get smaller: 320 to 256 is 8 heads of 40 to 8 of 32. Text context and class embeddings are untouched.
"""

from __future__ import annotations

from toolkit.errors import DtkError
from toolkit.pruning.adapters.base import Limits
from toolkit.pruning.adapters.unet import refuse_unknown_parts, width_space
from toolkit.pruning.space import Config, Space

KNOWN_BLOCKS = {
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "UNetMidBlock2DCrossAttn",
}
PLAIN = {
    "addition_embed_type": (None,),  # text_time shares freq_shift with the time embedding
    "time_cond_proj_dim": (None,),
    "attention_type": ("default",),
    "dual_cross_attention": (False,),
}


class UNet2DConditionAdapter:
    """Level widths of UNet2DConditionModel; attention keeps its heads, which get smaller."""

    class_name = "UNet2DConditionModel"

    def space(self, config: Config, limits: Limits) -> Space:
        refuse_unknown_parts(config, KNOWN_BLOCKS, config["norm_num_groups"])
        for field, known in PLAIN.items():
            if config[field] not in known:
                raise DtkError(
                    "dtk cannot prune this variant of UNet2DConditionModel.",
                    found=f"{field} {config[field]!r}",
                    expected=f"{known[0]!r}",
                )
        return width_space(config, limits, _heads(config), config["norm_num_groups"])

    def whole_heads(self, config: Config) -> bool:
        return False


def _heads(config: Config) -> list[int]:
    """The number of attention heads of each level."""
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    return [heads] * len(config["block_out_channels"]) if isinstance(heads, int) else list(heads)


ADAPTER = UNet2DConditionAdapter()
