"""Depth: which blocks of a network may go, and how the tensors of those that stay are called in the shallower model.

A *stack* is a row of blocks with a residual stream running past them, so that any that is named removable can go and
leave a stock model with one block less. What an adapter says about its stacks are its block rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from toolkit.adapters.space import Config

Rename = Callable[[str], str | None]
"""What a tensor of the dense model is called in the shallower one; None if it is removed."""

KeptBlocks = Mapping[str, tuple[int, ...]]
"""stack -> the numbers of its blocks that stay, ascending"""

Orders = Mapping[str, tuple[int, ...]]
"""stack -> its removable blocks in the order in which they would go"""


@dataclass(frozen=True)
class Stack:
    """``size`` blocks in a row; only the ``removable`` ones may go."""

    size: int
    removable: tuple[int, ...]


class BlockRules(Protocol):
    """Which blocks of a diffusers class may go."""

    def stacks(self, config: Config) -> dict[str, Stack]:
        """The stacks of a configuration, by name."""
        ...

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        """The configuration with these many blocks in each stack."""
        ...

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        """How the tensors of a dense configuration are called if only the kept blocks stay."""
        ...

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        """For each removed block with a stream of its own, the tensor that wrote it and the one that does instead.

        The first dimension of both is the same channels to whoever reads them, so that equal ones have to stay.
        """
        ...


class NoBlocks:
    """The rules of a class whose blocks all stay."""

    def stacks(self, config: Config) -> dict[str, Stack]:
        return {}

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        return config

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        return unchanged

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        return {}


def unchanged(tensor: str) -> str | None:
    """The renaming that leaves every tensor where it is."""
    return tensor


def renumber(tensor: str, prefix: str, kept: tuple[int, ...]) -> str | None:
    """``prefix.N.rest`` with N as the block's place among the kept ones, None for a removed block."""
    number, _, rest = tensor.removeprefix(prefix).partition(".")
    return f"{prefix}{kept.index(int(number))}.{rest}" if int(number) in kept else None


def stay(stacks: Mapping[str, Stack], orders: Orders, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The blocks that are kept when each stack shrinks to its size; the first of its order is removed first."""
    gone = {name: set(orders[name][: stack.size - sizes[name]]) for name, stack in stacks.items()}
    return {name: tuple(i for i in range(stack.size) if i not in gone[name]) for name, stack in stacks.items()}


Error = Callable[[KeptBlocks], float]
"""How far the model with only these blocks is from the dense one."""


@dataclass(frozen=True)
class Removal:
    """One step of an order: the block that went, and the error with it and all before it gone."""

    stack: str
    block: int
    error: float


def removals(stacks: Mapping[str, Stack], counts: Mapping[str, int], error: Error) -> Iterator[Removal]:
    """For each stack the first ``counts`` blocks to go: each time the one whose removal leaves the least error.

    Errors of blocks do not add up (neighbours often do the same), so every removal is judged with the earlier ones of
    its stack gone; the other stacks are whole. Of equal errors the later block is removed.
    """
    whole = {name: tuple(range(stack.size)) for name, stack in stacks.items()}
    for name, stack in stacks.items():
        left, removable = whole[name], set(stack.removable)
        for _ in range(counts.get(name, 0)):
            tried = [(error({**whole, name: tuple(i for i in left if i != b)}), -b) for b in left if b in removable]
            least, block = min(tried)
            left = tuple(i for i in left if i != -block)
            yield Removal(name, -block, least)


def default_orders(stacks: Mapping[str, Stack]) -> dict[str, tuple[int, ...]]:
    """The last blocks first: for sizes, which do not depend on which blocks go."""
    return {name: tuple(reversed(stack.removable)) for name, stack in stacks.items()}


def orders_from(stacks: Mapping[str, Stack], removals: list[Removal]) -> dict[str, tuple[int, ...]]:
    """The orders that these removals begin; blocks that were not tried come last."""
    first = {name: tuple(r.block for r in removals if r.stack == name) for name in stacks}
    return {
        name: (*first[name], *(b for b in default if b not in first[name]))
        for name, default in default_orders(stacks).items()
    }
