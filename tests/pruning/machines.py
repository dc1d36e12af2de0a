"""Machines whose latency is a formula, and the spaces they are measured on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tests.tiny import tiny_unet
from toolkit.adapters.base import Constraints
from toolkit.adapters.space import Config, Space
from toolkit.core.noise import generator
from toolkit.models.build import plain_config
from toolkit.pruning.prunable import Prunable


@dataclass(frozen=True)
class Timed:
    fraction: float
    noise: float = 0.0
    dense_ms: float = 10.0
    clock: str = "wall"

    @property
    def ms(self) -> float:
        return self.fraction * self.dense_ms

    @property
    def low(self) -> float:
        return self.fraction * (1 - self.noise)

    @property
    def high(self) -> float:
        return self.fraction * (1 + self.noise)


def two_levels() -> Space:
    return Prunable(
        "UNet2DModel", plain_config(tiny_unet(block_out_channels=(64, 128, 128)).config), Constraints()
    ).space


class Machine:
    """Latency as machines have it: launches, memory, products, a step where a width misses the vector length."""

    def __init__(self, space: Space, jitter: float = 0.0, unit: int = 1) -> None:
        self.space, self.jitter, self.unit, self.measured = space, jitter, unit, 0

    def latency(self, config: Config) -> float:
        widths = np.ceil(np.array(config["block_out_channels"], dtype=float) / self.unit) * self.unit
        products = sum(a * b for a, b in itertools.pairwise(widths)) + (widths**2).sum()
        uneven = sum(0.03 * width**2 for width in widths if width % 64)
        return float(2e4 + 60 * widths.sum() + products + uneven)

    def __call__(self, config: Config) -> Timed:
        self.measured += 1
        wrong = self.jitter * generator("machine", 0, self.measured).standard_normal()
        return Timed(self.latency(config) / self.latency(self.space.dense) * (1 + float(wrong)))
