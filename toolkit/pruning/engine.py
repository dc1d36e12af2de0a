"""A dense model made ready for pruning: its layout, its space, and what a choice of values keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from toolkit import models
from toolkit.denoiser_inputs import example_inputs, input_specs
from toolkit.files import value_sha256
from toolkit.pruning import catalog, selection
from toolkit.pruning.adapters.base import Limits
from toolkit.pruning.couplings import couple, norm_groups
from toolkit.pruning.layout import Layout
from toolkit.pruning.space import Config, Space, Values
from toolkit.pruning.trace import trace


@dataclass(frozen=True)
class Engine:
    """Everything about a dense configuration that choosing channels needs; holds shapes, no weights."""

    class_name: str
    config: Config
    limits: Limits
    _known_sizes: dict[str, dict[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def space(self) -> Space:
        """The stock configurations within reach."""
        return catalog.adapter(self.class_name).space(self.config, self.limits)

    @cached_property
    def layout(self) -> Layout:
        """Coupled groups, bound by the group policy; traced on the meta device."""
        model = models.build(self.class_name, self.config)
        inputs = example_inputs(input_specs(self.class_name, self.config), batch=2, device="meta")
        whole_heads = catalog.adapter(self.class_name).whole_heads(self.config)
        coupled = couple(trace(model, inputs), model, whole_heads=whole_heads)
        return selection.bind(coupled, norm_groups(model), self.limits.groups)

    def sizes(self, config: Config) -> dict[str, int]:
        """How many channels each group has in the stock model of ``config``, read off its shapes."""
        key = value_sha256(config)
        if key not in self._known_sizes:
            self._known_sizes[key] = self._read_sizes(config)
        return self._known_sizes[key]

    def _read_sizes(self, config: Config) -> dict[str, int]:
        shapes = {name: tensor.shape for name, tensor in models.build(self.class_name, config).state_dict().items()}
        found: dict[str, int] = {}
        for tensor, dim, segments in self.layout.dimensions():
            groups = {segment.group for segment in segments}
            if len(groups) == 1:  # the whole dimension is one group, perhaps repeated
                found[groups.pop()] = shapes[tensor][dim] // len(segments)
        return {name: found[name] for name in self.layout.groups}

    def kept(self, scores: selection.Scores, config: Config) -> dict[str, np.ndarray]:
        """The channels that stay when the model takes the shape of ``config``."""
        return selection.keep_all(self.layout, scores, self.sizes(config))

    def retained(self, scores: Mapping[str, np.ndarray], values: Values) -> float:
        """The mean share of score that the configuration with these values keeps."""
        return selection.retained(scores, self.kept(scores, self.space.configure(values)))
