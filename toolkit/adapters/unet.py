"""What the two UNet classes of diffusers share. Free: the widths of the levels, ``block_out_channels``.

Adjacent levels of equal width share one residual stream and stay equal; levels of unequal width are joined by a learned
shortcut, which a stock model has only while they differ. The time embedding's MLP keeps its width; its sinusoid has the
width of the first level and loses its slowest frequencies (``freq_shift`` keeps the others where they were).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import BlockRules
from toolkit.adapters.space import Config, Space, Values, Variable, multiples
from toolkit.adapters.text_time import narrowed_ids
from toolkit.core.errors import DtkError

Narrow = Callable[[Config, list[int], dict[str, Any]], Config]
"""The configuration with these level widths, and with fields that were changed on the way."""


def width_space(
    config: Config, limits: Constraints, heads: Sequence[int], norm_groups: int, narrow: Narrow | None = None
) -> Space:
    """The narrower configurations of a UNet, or by ``narrow`` of another network of such levels.

    Widths are multiples of ``heads`` (one number per level: the head size or the number of heads, whichever is fixed)
    and of ``norm_groups``, the least common multiple of all numbers of norm groups. Under the policy ``whole`` one
    number is free, that of the norm groups, and every width follows from it.
    """
    widths = tuple(config["block_out_channels"])
    runs = _runs(widths)
    narrow = narrow or narrowed
    if limits.groups == "whole":
        return _scaled_norms(config, limits, heads, narrow)
    variables = tuple(
        _width(widths[start], start, stop, limits, math.lcm(norm_groups, *heads[start:stop])) for start, stop in runs
    )

    def configure(values: Values) -> Config:
        spread = [value for value, (start, stop) in zip(values, runs, strict=True) for _ in range(start, stop)]
        return narrow(config, spread, {})

    def allows(values: Values) -> bool:
        return all(a != b for a, b in itertools.pairwise(values))

    return Space(config, variables, configure, allows)


def width_of_levels(widths: Space) -> list[str]:
    """For each level the name of the variable that sets its width."""
    names = [variable.name for variable in widths.variables]
    runs = enumerate(_runs(widths.dense["block_out_channels"]))
    return [names[min(run, len(names) - 1)] for run, (start, stop) in runs for _ in range(start, stop)]


def joined(widths: Space, free: tuple[Variable, ...], rules: BlockRules) -> Space:
    """The space of ``widths`` with the variables of blocks ``free`` as well."""
    count = len(widths.variables)

    def configure(values: Values) -> Config:
        sizes = {variable.name: value for variable, value in zip(free, values[count:], strict=True)}
        return rules.resized(widths.configure(values[:count]), sizes)

    return Space(widths.dense, (*widths.variables, *free), configure, lambda values: widths.allows(values[:count]))


def narrowed(config: Config, widths: list[int], changed: dict[str, Any]) -> Config:
    """The configuration with other level widths, its time embeddings kept as functions."""
    dense = list(config["block_out_channels"])
    if widths == dense:
        return dict(config)
    lost_frequencies = (dense[0] - widths[0]) // 2
    return {
        **config,
        **changed,
        **narrowed_ids(config, lost_frequencies),
        "block_out_channels": widths,
        "time_embedding_dim": config["time_embedding_dim"] or 4 * dense[0],
        "freq_shift": config["freq_shift"] - lost_frequencies,
    }


def refuse_unknown_parts(config: Config, known_blocks: set[str], norm_groups: int) -> None:
    """Raise DtkError for blocks, embeddings and norms that this surgery cannot follow."""
    if not norm_groups:
        raise DtkError("This model has no number of norm groups.", found="norm_num_groups null", expected="a number")
    blocks = [*config["down_block_types"], *config["up_block_types"], config["mid_block_type"]]
    unknown = sorted({block for block in blocks if block is not None} - known_blocks)
    if unknown:
        raise DtkError(
            "dtk cannot prune these blocks.", found=", ".join(unknown), expected=", ".join(sorted(known_blocks))
        )
    time, classes = config["time_embedding_type"], config["class_embed_type"]
    if time != "positional" or classes == "timestep":
        raise DtkError(
            "dtk cannot narrow this time embedding.",
            found=f"time_embedding_type {time!r}, class_embed_type {classes!r}",
            expected="'positional', and classes that do not pass through the sinusoid",
        )
    refuse_widths(config, norm_groups)


def refuse_widths(config: Config, norm_groups: int) -> None:
    """Raise DtkError for widths that the norm groups do not divide."""
    wrong = [width for width in config["block_out_channels"] if width % norm_groups]
    if wrong:
        raise DtkError(
            "The norm groups do not divide a width of this model.",
            found=f"width {wrong[0]}, {norm_groups} norm groups",
            expected="every width a multiple of the number of norm groups",
        )


def class_labels(config: Config) -> dict[str, InputSpec]:
    """The input of a UNet that embeds class labels, none of one that does not."""
    kind, classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind is None and classes is None:
        return {}
    if kind not in (None, "timestep"):
        raise DtkError(f"Class embeddings of type {kind!r} are not supported.", expected="num_class_embeds")
    return {"class_labels": InputSpec((), "int64", classes or 1000)}


def _runs(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of adjacent levels of equal width, as (start, stop)."""
    lengths = [len(list(run)) for _, run in itertools.groupby(widths)]
    stops = list(itertools.accumulate(lengths))
    return [(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]


def _width(dense: int, start: int, stop: int, limits: Constraints, multiple: int) -> Variable:
    step = math.lcm(limits.align, 2, multiple)
    name = f"level {start}" if stop - start == 1 else f"levels {start}-{stop - 1}"
    return Variable(name, dense, step, multiples(dense, step, limits.least), channels=True)


def _scaled_norms(config: Config, limits: Constraints, heads: Sequence[int], narrow: Narrow) -> Space:
    widths, groups = tuple(config["block_out_channels"]), config["norm_num_groups"]
    if config.get("attn_norm_num_groups") not in (None, groups):
        raise DtkError(
            "The policy `whole` scales one number of norm groups.",
            found=f"norm_num_groups {groups}, attn_norm_num_groups {config['attn_norm_num_groups']}",
            do="use --groups within",
        )
    units = [math.lcm(limits.align, 2, multiple) for multiple in heads]
    steps = [unit // math.gcd(unit, width // groups) for unit, width in zip(units, widths, strict=True)]
    step = math.lcm(*steps)
    variable = Variable("norm groups", groups, step, multiples(groups, step, limits.least))

    def configure(values: Values) -> Config:
        counts = {"norm_num_groups": values[0]}
        if config.get("attn_norm_num_groups") is not None:
            counts["attn_norm_num_groups"] = values[0]
        return narrow(config, [width * values[0] // groups for width in widths], counts)

    return Space(config, (variable,), configure, lambda values: True)
