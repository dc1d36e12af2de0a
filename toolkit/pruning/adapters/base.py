"""What an adapter says about its diffusers class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from toolkit.pruning.blocks import BlockRules
from toolkit.pruning.space import Config, Space


@dataclass(frozen=True)
class Limits:
    """What the user asks of every reachable configuration.

    ``align``: widths are multiples of this. ``groups``: the policy for norm groups, "within" or "whole". ``least``: the
    smallest fraction of its dense value that any variable may take. ``blocks``: whether blocks may go as well where the
    class can say it.
    """

    align: int = 8
    groups: str = "within"
    least: float = 0.5
    blocks: bool = False


class Adapter(Protocol):
    """Knows one diffusers class."""

    class_name: str
    has_widths: bool  # whether channels may go; where not, only blocks do
    blocks: BlockRules

    def space(self, config: Config, limits: Limits) -> Space:
        """The stock configurations reachable from ``config``; raises DtkError for a variant it cannot follow."""
        ...

    def whole_heads(self, config: Config) -> bool:
        """Whether narrower attention loses whole heads (the config fixes their size) or has smaller ones."""
        ...
