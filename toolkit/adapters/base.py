"""What an adapter says about its diffusers class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from toolkit import adapters
from toolkit.adapters.blocks import BlockRules
from toolkit.adapters.space import Config, Space
from toolkit.core.registry import entries, entry


@dataclass(frozen=True)
class Constraints:
    """What the user asks of every reachable configuration.

    ``align``: widths are multiples of this. ``groups``: the policy for norm groups, "within" or "whole". ``least``: the
    smallest fraction of its dense value that any variable may take. ``blocks``: whether blocks may go as well if the
    class can say it. ``preset``: the published choice of blocks that go, "" for none.
    """

    align: int = 8
    groups: str = "within"
    least: float = 0.5
    blocks: bool = False
    preset: str = ""


TOKENS = 77  # CLIP's context length; the config does not hold it, and no convolution or linear depends on it


@dataclass(frozen=True)
class InputSpec:
    """One input: ``shape`` of a single item, the batch dimension left out.

    Integer inputs lie in [0, ``upper``), as do floats if it is not 0.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"
    upper: int = 0


class Adapter(Protocol):
    """Knows one diffusers class."""

    class_name: str
    component: str  # the name of its folder in a pipeline
    has_widths: bool  # whether channels may go; if not, only blocks do
    null_class: bool  # whether class embeddings have a row for the null class behind the last, which training drops to
    timed: bool  # whether it takes a timestep; all denoisers do
    blocks: BlockRules

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        """What the denoiser takes next to sample and timestep; ``tokens`` is the length of a context."""
        ...

    def space(self, config: Config, limits: Constraints) -> Space:
        """The stock configurations reachable from ``config``; raises DtkError for a variant it cannot follow."""
        ...

    def whole_heads(self, config: Config) -> bool:
        """Whether narrower attention loses whole heads (the config fixes their size) or has smaller ones."""
        ...


def known_adapters() -> dict[str, Adapter]:
    """Every adapter, by the name of its diffusers class."""
    return entries(adapters, "ADAPTER", Adapter, key="class_name")


def adapter_of(class_name: str) -> Adapter:
    """The adapter of a diffusers class, or of a ``PART`` of one; an unknown one is refused with the known ones."""
    parts = entries(adapters, "PART", Adapter, key="class_name")
    adapter: Adapter = parts.get(class_name) or entry(known_adapters(), "model class", class_name)
    return adapter
