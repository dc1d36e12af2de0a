"""UNet2DConditionModel: the denoiser of LDM-4, Stable Diffusion and SDXL.

``attention_head_dim`` is the *number* of heads in this class (diffusers keeps the name for old checkpoints), so heads
stay and get smaller: 320 to 256 is 8 heads of 40 to 8 of 32. Text context and class embeddings are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import KeptBlocks, Rename, Stack
from toolkit.adapters.space import Config, Space
from toolkit.adapters.text_time import text_time
from toolkit.adapters.unet import class_labels, refuse_unknown_parts, width_space, with_blocks
from toolkit.adapters.unet_blocks import renumbered, up_successors
from toolkit.core.errors import DtkError

KNOWN_BLOCKS = {
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "UNetMidBlock2DCrossAttn",
}
PLAIN = {
    "addition_embed_type": (None, "text_time"),
    "time_cond_proj_dim": (None,),
    "attention_type": ("default",),
    "dual_cross_attention": (False,),
}


class LevelBlocks:
    """Blocks per level: ``layers_per_block``, one number for each level if they differ.

    With two blocks a level this is the choice of BK-SDM (Kim et al. 2023); unet_blocks.py says which up blocks go.
    """

    def stacks(self, config: Config) -> dict[str, Stack]:
        layers = _layers(config)
        return {_stack(level): Stack(n, tuple(range(1, n))) for level, n in enumerate(layers)}

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        layers = _layers(config)
        wanted = [sizes.get(_stack(level), n) for level, n in enumerate(layers)]
        if wanted == layers:
            return config
        equal = len(set(wanted)) == 1  # diffusers weighs several LoRAs, and builds ControlNets, only with one number
        return {**config, "layers_per_block": wanted[0] if equal else wanted}

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        layers = _layers(config)
        return renumbered(layers, [kept[_stack(level)] for level in range(len(layers))])

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        layers = _layers(config)
        return up_successors(layers, [kept[_stack(level)] for level in range(len(layers))])


def _stack(level: int) -> str:
    return f"blocks of level {level}"


def _layers(config: Config) -> list[int]:
    layers = config["layers_per_block"]
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)


class UNet2DConditionAdapter:
    """Level widths of UNet2DConditionModel, and blocks with --blocks; attention keeps its heads, which get smaller."""

    class_name = "UNet2DConditionModel"
    component = "unet"
    has_widths, null_class = True, False
    blocks = LevelBlocks()

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        width, added = config.get("encoder_hid_dim") or config["cross_attention_dim"], text_time(config)
        context = {"encoder_hidden_states": InputSpec((tokens, width))} | (added.inputs if added else {})
        return {**context, **class_labels(config)}

    def space(self, config: Config, limits: Constraints) -> Space:
        refuse_unknown_parts(config, KNOWN_BLOCKS, config["norm_num_groups"])
        for field, known in PLAIN.items():
            if config[field] not in known:
                raise DtkError(
                    "dtk cannot prune this variant of UNet2DConditionModel.",
                    found=f"{field} {config[field]!r}",
                    expected=" or ".join(map(repr, known)),
                )
        widths = width_space(config, limits, _heads(config), config["norm_num_groups"])
        return with_blocks(widths, self.blocks, limits.least) if limits.blocks else widths

    def whole_heads(self, config: Config) -> bool:
        return False


def _heads(config: Config) -> list[int]:
    """The number of attention heads of each level."""
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    return [heads] * len(config["block_out_channels"]) if isinstance(heads, int) else list(heads)


ADAPTER = UNet2DConditionAdapter()
