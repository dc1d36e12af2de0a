"""How many transformer blocks each attention of a UNet2DConditionModel has: ``transformer_layers_per_block``.

The config has a number for each level, or one for each attention of a level; then those of the way up stand in
``reverse_transformer_layers_per_block``. The middle block's attention is as deep as the first of the last level, and
counts as a part of that one. Nothing is as deep as it was if one of the numbers changes, so all are written at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.adapters.space import Config

MIDDLE_ATTENTION = "mid_block.attentions.0"
BLOCKS = "transformer_blocks."


def layers_of(config: Config) -> list[int]:
    """The number of down blocks of each level."""
    layers = config["layers_per_block"]
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)


def attentions_of(config: Config, level: int) -> tuple[list[str], list[str]]:
    """The names of a level's attentions on the way down and on the way up; none where a block has none."""
    levels, count = len(config["block_out_channels"]), layers_of(config)[level]
    up = levels - 1 - level
    down_names = [f"down_blocks.{level}.attentions.{i}" for i in range(count)]
    up_names = [f"up_blocks.{up}.attentions.{i}" for i in range(count + 1)]
    return (
        down_names if "CrossAttn" in config["down_block_types"][level] else [],
        up_names if "CrossAttn" in config["up_block_types"][up] else [],
    )


def depths(config: Config) -> dict[int, dict[str, int]]:
    """Level -> attention -> its number of transformer blocks; the middle's own only where it is not another's part."""
    levels = len(config["block_out_channels"])
    down, up = _numbers(config)
    by_level: dict[int, dict[str, int]] = {}
    for level in range(levels):
        names = attentions_of(config, level)
        numbers = (down[level], up[levels - 1 - level])
        by_level[level] = {
            name: number if isinstance(number, int) else number[i]
            for part, number in zip(names, numbers, strict=True)
            for i, name in enumerate(part)
        }
    if middle_of(config) == MIDDLE_ATTENTION and config["mid_block_type"] == "UNetMidBlock2DCrossAttn":
        by_level[levels - 1][MIDDLE_ATTENTION] = down[-1] if isinstance(down[-1], int) else down[-1][0]
    return by_level


def middle_of(config: Config) -> str:
    """The attention that the middle block's is as deep as: the first of the last level, itself if there is none."""
    return next(iter(attentions_of(config, len(config["block_out_channels"]) - 1)[0]), MIDDLE_ATTENTION)


def with_depths(config: Config, wanted: Mapping[str, int]) -> Config:
    """The config with these numbers of transformer blocks, by attention; unchanged if none differs."""
    dense = depths(config)
    if all(wanted.get(name, number) == number for level in dense.values() for name, number in level.items()):
        return config
    levels = len(dense)
    new = {name: wanted.get(name, number) for level in dense.values() for name, number in level.items()}
    down, up = _numbers(config)
    uniform = True
    for level in range(levels):
        names = attentions_of(config, level)
        numbers = [[new[name] for name in part] for part in names]
        alone = [new[MIDDLE_ATTENTION]] if MIDDLE_ATTENTION in dense[level] else []
        every = {*numbers[0], *numbers[1], *alone}
        if len(every) == 1:
            down[level] = up[levels - 1 - level] = every.pop()
        elif every:
            uniform = False
            down[level] = numbers[0] or down[level]
            up[levels - 1 - level] = numbers[1] or up[levels - 1 - level]
    reverse = None if uniform else up
    return {**config, "transformer_layers_per_block": down, "reverse_transformer_layers_per_block": reverse}


def _numbers(config: Config) -> tuple[list[Any], list[Any]]:
    """The config's numbers on the way down and on the way up, one (or a list) for each level in its order."""
    per, reverse = config["transformer_layers_per_block"], config.get("reverse_transformer_layers_per_block")
    down = [per] * len(config["block_out_channels"]) if isinstance(per, int) else list(per)
    return down, list(reversed(down)) if reverse is None else list(reverse)
