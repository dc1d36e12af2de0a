"""Published choices of blocks, by name: how many each stack keeps. Which blocks stay is tried out on images.

| preset | of | what went |
| --- | --- | --- |
| bk-sdm-base | UNets with two blocks a level | the second block of each level, the middle one of three on the way up |
| bk-sdm-small | the same | the middle block as well |
| ssd-1b | SDXL | transformer blocks, most on the way down, and the middle block's attention |
| segmind-vega | SDXL | more of both |

BK-SDM: Kim et al. (2023), "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion", section 3.1. SSD-1B and
Segmind-Vega: Gupta et al. (2024), arXiv 2401.02677; the numbers are those of the published models' configurations.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.adapters.blocks import BlockRules, Stack
from toolkit.adapters.space import Config, Space, Values, Variable
from toolkit.core.errors import UsageError, unknown

SMALL_SDXL = "attention of the middle block"


def _sdxl(down: tuple[tuple[int, ...], ...], up: tuple[tuple[int, ...], ...]) -> dict[str, int]:
    """Transformer blocks of SDXL's attentions: of its levels 1 and 2 on the way down, 2 and 1 on the way up."""
    numbers = {f"down_blocks.{level}.attentions.{i}": n for level, row in enumerate(down, 1) for i, n in enumerate(row)}
    numbers |= {f"up_blocks.{level}.attentions.{i}": n for level, row in enumerate(up) for i, n in enumerate(row)}
    return numbers | {SMALL_SDXL: 0}


EVERY_LEVEL = {f"blocks of level {level}": 1 for level in range(4)}
PRESETS: Mapping[str, Mapping[str, int]] = {
    "bk-sdm-base": EVERY_LEVEL,
    "bk-sdm-small": EVERY_LEVEL | {"middle block": 0},
    "ssd-1b": _sdxl(((2, 2), (4, 4)), ((4, 4, 10), (2, 1, 1))),
    "segmind-vega": _sdxl(((1, 1), (2, 2)), ((2, 2, 2), (1, 1, 1))),
}


def preset_sizes(name: str, stacks: Mapping[str, Stack]) -> Mapping[str, int]:
    """The sizes of a preset for a model with these stacks. Raises UsageError for one that it was not made for."""
    if name not in PRESETS:
        raise unknown("preset", name, list(PRESETS))
    sizes = PRESETS[name]
    for stack, size in sizes.items():
        if stack not in stacks or stacks[stack].size - len(stacks[stack].removable) > size or stacks[stack].size < size:
            there = f"{stacks[stack].size} there" if stack in stacks else "no such stack"
            raise UsageError(
                f"The preset {name} is of another model.", found=f"{stack}: {there}", expected=f"{size} of more to keep"
            )
    return sizes


def with_preset(widths: Space, name: str, rules: BlockRules) -> Space:
    """The space of ``widths`` with a preset's blocks gone in every configuration but the dense one."""
    sizes = preset_sizes(name, rules.stacks(widths.dense))
    names = tuple(variable.name for variable in widths.variables)
    taken = Variable(name, 1, 1, (0,), kind="blocks", widths=names)  # 1 is the dense model, which is no choice

    def configure(values: Values) -> Config:
        narrow = widths.configure(values[:-1])
        return narrow if values[-1] else rules.resized(narrow, sizes)

    return Space(widths.dense, (*widths.variables, taken), configure, lambda values: widths.allows(values[:-1]))
