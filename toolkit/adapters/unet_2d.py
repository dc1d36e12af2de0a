"""UNet2DModel: the DDPM and unconditional LDM denoiser. Its config fixes the size of an attention head.

What its stock configuration can say about blocks: one number of layers for all levels, attention or none in each down
block, each up block and the middle block, and no middle block. A level cannot go: its blocks have a resolution of their
own, and what they read would reach the others at another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import KeptBlocks, Rename, Stack
from toolkit.adapters.space import Config, Space, Values, Variable, multiples
from toolkit.adapters.unet import class_labels, joined, refuse_unknown_parts, width_of_levels, width_space
from toolkit.adapters.unet_blocks import renumbered, up_successors

KNOWN_BLOCKS = {
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "UNetMidBlock2D",
}
LAYERS, MIDDLE = "layers of every level", "middle block"
MIDDLE_ATTENTION = f"attention of the {MIDDLE}"
WITHOUT_ATTENTION = {
    ("AttnDownBlock2D", "conv"): "DownBlock2D",
    ("AttnDownBlock2D", "resnet"): "ResnetDownsampleBlock2D",
    ("AttnUpBlock2D", "conv"): "UpBlock2D",
    ("AttnUpBlock2D", "resnet"): "ResnetUpsampleBlock2D",
}
"""(block type, how it changes the resolution) -> the type that is the same without attention"""


class UNet2DBlocks:
    """Layer k of every level at once, and attentions and the middle block one by one; a stack of one may be empty."""

    def stacks(self, config: Config) -> dict[str, Stack]:
        layers, middle = config["layers_per_block"], config["mid_block_type"] is not None
        present = {place: kind.startswith("Attn") for place, kind in _kinds(config)}
        present |= {MIDDLE_ATTENTION: middle and config["add_attention"], MIDDLE: middle}
        single = {name: Stack(int(there), (0,) if there else ()) for name, there in present.items()}
        return {LAYERS: Stack(layers, tuple(range(1, layers))), **single}

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        gone = {name for name, size in sizes.items() if size == 0 and self.stacks(config)[name].size}
        changed: Config = {"layers_per_block": sizes.get(LAYERS, config["layers_per_block"])}
        for way in ("down", "up"):
            places = enumerate(config[f"{way}_block_types"])
            sampling = config[f"{way}sample_type"] or "conv"
            changed[f"{way}_block_types"] = [
                WITHOUT_ATTENTION[kind, sampling] if _attention(way, number) in gone else kind
                for number, kind in places
            ]
        changed |= {"add_attention": False} if MIDDLE_ATTENTION in gone else {}
        changed |= {"mid_block_type": None} if MIDDLE in gone else {}
        return {**config, **changed}

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        levels = len(config["block_out_channels"])
        layers = renumbered([config["layers_per_block"]] * levels, [kept[LAYERS]] * levels)
        parts = {_attention(way, n): f"{way}_blocks.{n}.attentions." for way in ("down", "up") for n in range(levels)}
        parts |= {MIDDLE_ATTENTION: "mid_block.attentions.", MIDDLE: "mid_block."}
        gone = tuple(prefix for name, prefix in parts.items() if not kept[name])

        def renamed(tensor: str) -> str | None:
            return None if tensor.startswith(gone) else layers(tensor)

        return renamed

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        levels = len(config["block_out_channels"])
        return up_successors([config["layers_per_block"]] * levels, [kept[LAYERS]] * levels)

    def variables(self, widths: Space, least: float) -> Iterator[Variable]:
        """The free numbers; an attention of a level is as many as the level has layers, and one more on the way up."""
        stacks, of_level = self.stacks(widths.dense), width_of_levels(widths)
        layers = stacks[LAYERS].size
        per = LAYERS if layers > 1 else ""
        every = tuple(dict.fromkeys(of_level))
        if per:
            yield Variable(LAYERS, layers, 1, multiples(layers, 1, least), kind="blocks", widths=every)
        for way, in_order, extra in (("down", of_level, 0), ("up", of_level[::-1], 1)):
            for number, width in enumerate(in_order):
                if stacks[_attention(way, number)].size:
                    name = _attention(way, number)
                    yield Variable(name, 1, 1, (0, 1), kind="blocks", widths=(width,), per=per, extra=extra)
        for name in (MIDDLE_ATTENTION, MIDDLE):
            if stacks[name].size:
                yield Variable(name, 1, 1, (0, 1), kind="blocks", widths=(of_level[-1],))


def _attention(way: str, number: int) -> str:
    return f"attention of {way} block {number}"


def _kinds(config: Config) -> Iterator[tuple[str, str]]:
    """The place of an attention in each down and up block, and the block's type."""
    for way in ("down", "up"):
        yield from ((_attention(way, number), kind) for number, kind in enumerate(config[f"{way}_block_types"]))


class UNet2DAdapter:
    """Level widths of UNet2DModel, and blocks with --blocks; attention loses whole heads, or shrinks if it has one."""

    class_name = "UNet2DModel"
    component = "unet"
    has_widths, null_class, timed = True, False, True
    blocks = UNet2DBlocks()

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        return class_labels(config)

    def space(self, config: Config, limits: Constraints) -> Space:
        norm_groups = math.lcm(config["norm_num_groups"] or 0, config["attn_norm_num_groups"] or 1)
        refuse_unknown_parts(config, KNOWN_BLOCKS, norm_groups)
        head_size = config["attention_head_dim"] or 1
        widths = width_space(config, limits, [head_size] * len(config["block_out_channels"]), norm_groups)
        return self._with_blocks(widths, limits.least) if limits.blocks else widths

    def _with_blocks(self, widths: Space, least: float) -> Space:
        free = tuple(self.blocks.variables(widths, least))
        every = joined(widths, free, self.blocks)
        names = [variable.name for variable in every.variables]
        if MIDDLE_ATTENTION not in names:
            return every
        attention, middle = names.index(MIDDLE_ATTENTION), names.index(MIDDLE)

        def allows(values: Values) -> bool:  # an attention goes with its block: that is one configuration, not two
            return every.allows(values) and values[attention] >= 1 - values[middle]

        return Space(every.dense, every.variables, every.configure, allows)

    def whole_heads(self, config: Config) -> bool:
        return config["attention_head_dim"] is not None


ADAPTER = UNet2DAdapter()
