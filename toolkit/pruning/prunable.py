"""A dense model made ready for pruning: its layout, its space, and what a choice of values keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np

from toolkit.adapters.base import Adapter, Constraints, adapter_of
from toolkit.adapters.blocks import Orders, Rename, Stack, default_orders, stay
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.adapters.space import Config, Space, Values
from toolkit.core.files import value_sha256
from toolkit.models.build import build_model
from toolkit.pruning import selection
from toolkit.pruning.couplings import couple, norm_groups
from toolkit.pruning.layout import FIXED, Layout
from toolkit.pruning.trace import trace


@dataclass(frozen=True)
class Prunable:
    """Everything about a dense configuration that choosing channels needs; holds shapes, no weights.

    ``orders`` says in which order blocks go, if that is known better than by their place; ``largest`` values bound the
    space from above.
    """

    class_name: str
    config: Config
    limits: Constraints
    orders: Orders = field(default_factory=dict)
    largest: Values | None = None
    _known_sizes: dict[str, dict[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def adapter(self) -> Adapter:
        return adapter_of(self.class_name)

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """The stacks of the dense model."""
        return self.adapter.blocks.stacks(self.config)

    def stack_sizes(self, config: Config) -> dict[str, int]:
        """How many blocks of each of these stacks stay in ``config``, which may name no stack of a single one."""
        sizes = {name: stack.size for name, stack in self.adapter.blocks.stacks(config).items()}
        return {name: sizes.get(name, 1) for name in self.stacks}

    def blocks(self, config: Config) -> dict[str, tuple[int, ...]]:
        """The blocks that stay when the model takes the shape of ``config``, of every stack."""
        return stay(self.stacks, {**default_orders(self.stacks), **self.orders}, self.stack_sizes(config))

    def rename(self, config: Config) -> Rename:
        """What the dense model's tensors are called in the model of ``config``."""
        return self.adapter.blocks.rename(self.config, self.blocks(config))

    @cached_property
    def space(self) -> Space:
        """The stock configurations within reach."""
        space, largest = self.adapter.space(self.config, self.limits), self.largest
        if largest is None:
            return space
        fits = lambda values: all(value <= most for value, most in zip(values, largest, strict=True))  # noqa: E731
        return replace(space, allows=lambda values: fits(values) and space.allows(values))

    @cached_property
    def layout(self) -> Layout:
        """Coupled groups, bound by the group policy. None if the class has no widths."""
        if not self.adapter.has_widths:
            return Layout({}, {})
        return selection.bind(*_coupled(self.class_name, json.dumps(self.config)), self.limits.groups)

    def sizes(self, config: Config) -> dict[str, int]:
        """How many channels each group has in the stock model of ``config``, read off its shapes."""
        key = value_sha256([config, self.blocks(config)])
        if key not in self._known_sizes:
            self._known_sizes[key] = self._read_sizes(config)
        return self._known_sizes[key]

    def _read_sizes(self, config: Config) -> dict[str, int]:
        shapes = {name: tensor.shape for name, tensor in build_model(self.class_name, config).state_dict().items()}
        rename = self.rename(config)
        counts = dict.fromkeys(self.layout.groups, 0)  # what no tensor holds any more has gone with its block
        for tensor, dim, segments in self.layout.dimensions():
            groups, name = {segment.group for segment in segments}, rename(tensor)
            if len(groups) == 1 and name is not None:  # the whole dimension is one group, perhaps repeated
                counts[groups.pop()] = shapes[name][dim] // len(segments)
        counts.pop(FIXED, None)
        return counts

    def kept(self, scores: selection.Scores, config: Config) -> dict[str, np.ndarray]:
        """The channels that stay when the model takes the shape of ``config``."""
        return selection.keep_all(self.layout, scores, self.sizes(config), self._successors(config))

    def _successors(self, config: Config) -> dict[str, str]:
        """For each group whose block is removed, the group whose channels replace its own."""
        pairs = self.adapter.blocks.successors(self.config, self.blocks(config))
        first = {tensor: dims[0][0].group for tensor, dims in self.layout.tensors.items() if 0 in dims}
        return {first[removed]: first[kept] for removed, kept in pairs.items()}

    def retained(self, scores: Mapping[str, np.ndarray], values: Values) -> float:
        """The mean share of score that the configuration with these values keeps."""
        return selection.retained(scores, self.kept(scores, self.space.configure(values)))


@cache
def _coupled(class_name: str, config: str) -> tuple[Layout, dict[str, int]]:
    """Coupled groups and norm groups, traced on the meta device once for all prunables of a dense configuration."""
    dense = json.loads(config)
    model = build_model(class_name, dense)
    inputs = example_inputs(input_specs(class_name, dense), batch=2, device="meta")
    whole_heads = adapter_of(class_name).whole_heads(dense)
    return couple(trace(model, inputs), model, whole_heads=whole_heads), norm_groups(model)
