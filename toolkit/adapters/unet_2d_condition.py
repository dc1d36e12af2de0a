"""UNet2DConditionModel: the denoiser of LDM-4, Stable Diffusion and SDXL.

``attention_head_dim`` is the *number* of heads in this class (diffusers keeps the name for old checkpoints), so heads
stay and get smaller: 320 to 256 is 8 heads of 40 to 8 of 32. Text context and class embeddings are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import KeptBlocks, Rename, Stack, renumber
from toolkit.adapters.presets import with_preset
from toolkit.adapters.space import Config, Space, Variable, multiples
from toolkit.adapters.text_time import text_time
from toolkit.adapters.unet import class_labels, joined, refuse_unknown_parts, width_of_levels, width_space
from toolkit.adapters.unet_blocks import renumbered, up_successors
from toolkit.adapters.unet_depths import BLOCKS, attentions_of, depths, layers_of, middle_of, with_depths
from toolkit.core.errors import DtkError

KNOWN_BLOCKS = {
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UNetMidBlock2D",
}
CROSS_MIDDLE = "UNetMidBlock2DCrossAttn"
PLAIN = {
    "addition_embed_type": (None, "text_time"),
    "time_cond_proj_dim": (None,),
    "attention_type": ("default",),
    "dual_cross_attention": (False,),
}


MIDDLE = "middle block"
MIDDLE_ATTENTION = f"attention of the {MIDDLE}"


class LevelBlocks:
    """Blocks of each level, transformer blocks of each attention, and the middle block, whole or its attention.

    With two blocks a level, one is the choice of BK-SDM (Kim et al. 2023); unet_blocks.py says which up blocks go. A
    level with deeper attention loses transformer blocks instead, as in SSD-1B (Gupta et al. 2024).
    """

    def stacks(self, config: Config) -> dict[str, Stack]:
        """A stack of a single transformer block, which stays, is left out."""
        deep = {level: {n: d for n, d in inner.items() if d > 1} for level, inner in depths(config).items()}
        levels = {
            _stack(level): Stack(n, () if deep[level] else tuple(range(1, n)))
            for level, n in enumerate(layers_of(config))
        }
        inside = {name: Stack(d, tuple(range(d))) for inner in deep.values() for name, d in inner.items()}
        middle = config["mid_block_type"]
        present = {MIDDLE: middle is not None, MIDDLE_ATTENTION: middle == CROSS_MIDDLE}
        return levels | inside | {name: Stack(int(there), (0,) if there else ()) for name, there in present.items()}

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        layers = layers_of(config)
        wanted = [sizes.get(_stack(level), n) for level, n in enumerate(layers)]
        deep = {level: sizes[_depth(level)] for level in range(len(layers)) if _depth(level) in sizes}
        inside = {name: deep[level] for level, inner in depths(config).items() if level in deep for name in inner}
        shallow = with_depths(config, {**inside, **sizes})
        equal = len(set(wanted)) == 1  # diffusers weighs several LoRAs, and builds ControlNets, only with one number
        changed: Config = {} if wanted == layers else {"layers_per_block": wanted[0] if equal else wanted}
        if sizes.get(MIDDLE_ATTENTION) == 0 and config["mid_block_type"] == CROSS_MIDDLE:
            changed["mid_block_type"] = "UNetMidBlock2D"
        if sizes.get(MIDDLE) == 0:
            changed["mid_block_type"] = None
        return {**shallow, **changed} if changed else shallow

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        layers = layers_of(config)
        of_levels = renumbered(layers, [kept[_stack(level)] for level in range(len(layers))])
        inside = {f"{name}.{BLOCKS}": kept[name] for found in depths(config).values() for name in found if name in kept}
        if middle_of(config) in kept:
            inside[f"mid_block.attentions.0.{BLOCKS}"] = kept[middle_of(config)]
        parts = {MIDDLE: ("mid_block.",), MIDDLE_ATTENTION: ("mid_block.attentions.", "mid_block.resnets.1.")}
        gone = tuple(prefix for name, prefixes in parts.items() if not kept.get(name, (0,)) for prefix in prefixes)

        def renamed(tensor: str) -> str | None:
            if tensor.startswith(gone):
                return None
            head, separator, _ = tensor.partition(BLOCKS)
            if separator and f"{head}{BLOCKS}" in inside:  # the blocks of such a level stay where they are
                return renumber(tensor, f"{head}{BLOCKS}", inside[f"{head}{BLOCKS}"])
            return of_levels(tensor)

        return renamed

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        layers = layers_of(config)
        return up_successors(layers, [kept[_stack(level)] for level in range(len(layers))])

    def variables(self, widths: Space, least: float) -> tuple[Variable, ...]:
        """What is free: of each level its blocks, or how deep its attention is if that is the same everywhere in it."""
        config, free = widths.dense, []
        for level, (count, width) in enumerate(zip(layers_of(config), width_of_levels(widths), strict=True)):
            inside = set(depths(config)[level].values())
            name, size = (_stack(level), count) if inside <= {1} else (_depth(level), max(inside))
            if size > 1 and len(inside) <= 1:
                free.append(Variable(name, size, 1, multiples(size, 1, least), kind="blocks", widths=(width,)))
        return tuple(free)


def _stack(level: int) -> str:
    return f"blocks of level {level}"


def _depth(level: int) -> str:
    """All attentions of a level at once."""
    return f"transformer blocks of level {level}"


class UNet2DConditionAdapter:
    """Level widths of UNet2DConditionModel, and blocks with --blocks; attention keeps its heads, which get smaller."""

    class_name = "UNet2DConditionModel"
    component = "unet"
    has_widths, null_class, timed = True, False, True
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
        if limits.preset:
            return with_preset(widths, limits.preset, self.blocks)
        return joined(widths, self.blocks.variables(widths, limits.least), self.blocks) if limits.blocks else widths

    def whole_heads(self, config: Config) -> bool:
        return False


def _heads(config: Config) -> list[int]:
    """The number of attention heads of each level, 1 where there is no attention: it binds the width."""
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    levels = len(config["block_out_channels"])
    every = [heads] * levels if isinstance(heads, int) else list(heads)
    attending = [any(attentions_of(config, level)) for level in range(levels)]
    attending[-1] = attending[-1] or config["mid_block_type"] == CROSS_MIDDLE
    return [count if attends else 1 for count, attends in zip(every, attending, strict=True)]


ADAPTER = UNet2DConditionAdapter()
