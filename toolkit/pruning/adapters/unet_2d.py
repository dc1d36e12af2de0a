"""UNet2DModel: the DDPM and unconditional LDM denoiser. Free: the widths of the levels, ``block_out_channels``.

Adjacent levels of equal width share one residual stream and stay equal; levels of unequal width are joined by a learned
shortcut, which a stock model has only while they differ. The time embedding's MLP keeps its width; its sinusoid has the
width of the first level and loses its slowest frequencies (``freq_shift`` keeps the others where they were).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from toolkit.errors import DtkError
from toolkit.pruning.adapters.base import Limits
from toolkit.pruning.space import Config, Space, Values, Variable, multiples

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
    """Widths of ``UNet2DModel``."""

    class_name = "UNet2DModel"

    def space(self, config: Config, limits: Limits) -> Space:
        _refuse_unknown_parts(config)
        widths = tuple(config["block_out_channels"])
        runs = [(width, len(list(run))) for width, run in itertools.groupby(widths)]
        scale_norms = limits.groups == "whole"
        variables = _norm_variable(config, limits) if scale_norms else _width_variables(config, runs, limits)

        def widths_of(values: Values) -> list[int]:
            if scale_norms:
                return [width * values[0] // config["norm_num_groups"] for width in widths]
            return [value for value, (_, length) in zip(values, runs, strict=True) for _ in range(length)]

        def configure(values: Values) -> Config:
            changed = {"norm_num_groups": values[0]} if scale_norms else {}
            return narrowed(config, widths_of(values), changed)

        def allows(values: Values) -> bool:
            return scale_norms or all(a != b for a, b in itertools.pairwise(values))

        return Space(config, variables, configure, allows)

    def whole_heads(self, config: Config) -> bool:
        return config["attention_head_dim"] is not None


def narrowed(config: Config, widths: list[int], changed: dict[str, Any]) -> Config:
    """The configuration with other level widths, its time embedding kept as a function."""
    dense = list(config["block_out_channels"])
    if widths == dense:
        return dict(config)
    lost_frequencies = (dense[0] - widths[0]) // 2
    return {
        **config,
        **changed,
        "block_out_channels": widths,
        "time_embedding_dim": config["time_embedding_dim"] or 4 * dense[0],
        "freq_shift": config["freq_shift"] - lost_frequencies,
    }


def _width_variables(config: Config, runs: list[tuple[int, int]], limits: Limits) -> tuple[Variable, ...]:
    step = math.lcm(limits.align, 2, _norm_multiple(config), config["attention_head_dim"] or 1)
    starts = itertools.accumulate((length for _, length in runs), initial=0)
    variables = []
    for start, (width, length) in zip(starts, runs, strict=False):
        name = f"level {start}" if length == 1 else f"levels {start}-{start + length - 1}"
        variables.append(Variable(name, width, step, multiples(width, step, limits.least)))
    return tuple(variables)


def _norm_variable(config: Config, limits: Limits) -> tuple[Variable, ...]:
    groups = config["norm_num_groups"]
    if config["attn_norm_num_groups"] not in (None, groups):
        raise DtkError(
            "The policy `whole` scales one number of norm groups.",
            found=f"norm_num_groups {groups}, attn_norm_num_groups {config['attn_norm_num_groups']}",
            do="use --groups within",
        )
    unit = math.lcm(limits.align, 2, config["attention_head_dim"] or 1)
    per_group = [width // groups for width in config["block_out_channels"]]
    step = math.lcm(*(unit // math.gcd(unit, channels) for channels in per_group))
    return (Variable("norm groups", groups, step, multiples(groups, step, limits.least)),)


def _norm_multiple(config: Config) -> int:
    return math.lcm(config["norm_num_groups"], config["attn_norm_num_groups"] or 1)


def _refuse_unknown_parts(config: Config) -> None:
    blocks = [*config["down_block_types"], *config["up_block_types"], config["mid_block_type"]]
    unknown = sorted({block for block in blocks if block is not None} - KNOWN_BLOCKS)
    if unknown:
        raise DtkError(
            "dtk cannot prune these blocks of UNet2DModel.", found=", ".join(unknown), expected=sorted(KNOWN_BLOCKS)
        )
    if config["time_embedding_type"] != "positional":
        raise DtkError(
            "dtk cannot narrow this time embedding.",
            found=f"time_embedding_type {config['time_embedding_type']!r}",
            expected="'positional'",
        )
    wrong = [w for w in config["block_out_channels"] if w % _norm_multiple(config)]
    if wrong:
        raise DtkError(
            "The norm groups do not divide a width of this model.",
            found=f"width {wrong[0]}, {_norm_multiple(config)} norm groups",
            expected="every width a multiple of the number of norm groups",
        )


ADAPTER = UNet2DAdapter()
