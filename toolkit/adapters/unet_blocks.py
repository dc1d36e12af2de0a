"""Blocks of a UNet's levels that go, and what their tensors are called without them.

Down block k of a level (k > 0) is removed together with the up block that reads its skip connection, so that every up
block that is kept reads the skip connection it read before. The first down block of a level joins two widths, as do the
first and the last up block: they stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.adapters.blocks import Rename, renumber


def renumbered(layers: Sequence[int], stay: Sequence[tuple[int, ...]]) -> Rename:
    """The renaming if of each level's ``layers`` down blocks those in ``stay`` are kept."""
    prefixes: dict[str, tuple[int, ...]] = {}
    for level, count in enumerate(layers):
        for part in ("resnets", "attentions"):
            prefixes[f"down_blocks.{level}.{part}."] = stay[level]
            prefixes[f"up_blocks.{len(layers) - 1 - level}.{part}."] = _up_blocks(count, stay[level])

    def renamed(tensor: str) -> str | None:
        prefix = ".".join(tensor.split(".", 3)[:3]) + "."
        return renumber(tensor, prefix, prefixes[prefix]) if prefix in prefixes else tensor

    return renamed


def up_successors(layers: Sequence[int], stay: Sequence[tuple[int, ...]]) -> dict[str, str]:
    """An up block narrows what it concatenates, so its output is a stream of its own: the one before takes over."""
    successors: dict[str, str] = {}
    for level, count in enumerate(layers):
        up = _up_blocks(count, stay[level])
        output = f"up_blocks.{len(layers) - 1 - level}.resnets.{{}}.conv2.weight"
        gone = (block for block in range(count + 1) if block not in up)
        successors |= {output.format(b): output.format(max(s for s in up if s < b)) for b in gone}
    return successors


def _up_blocks(layers: int, stay: tuple[int, ...]) -> tuple[int, ...]:
    """The up blocks of a level of ``layers`` down blocks that stay when those in ``stay`` do."""
    return (0, *sorted(layers - block for block in stay))
