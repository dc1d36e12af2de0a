"""What each training step sees: a function of the seed and the sample's number, of nothing else.

Sample n = step x batch size + position. So a resumed run, another number of processes and another micro-batch see the
same images, flips, timesteps, noise and conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from toolkit.core.noise import Places, generator, normals
from toolkit.data.conditions import Condition, Kind
from toolkit.data.examples import Examples
from toolkit.recovery.ahead import to_device


@dataclass(frozen=True)
class Batch:
    """Clean images and noise (B, C, H, W), timesteps (B,), a condition, and if needed a unit vector, per image."""

    images: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    conditions: list[Condition]
    direction: torch.Tensor | None = None


class Batches:
    """Draws samples by number from the training images; ``directions`` adds a random unit vector to each.

    ``flip`` mirrors half of them, ``dropout`` is the share of conditions (of ``kind``) that the null condition takes
    the place of, so that guidance still has something to lead away from (Ho and Salimans 2022, algorithm 1).
    """

    def __init__(
        self,
        images: Examples,
        timesteps: int,
        seed: int,
        flip: bool,
        *,
        directions: bool = False,
        kind: Kind = "none",
        dropout: float = 0.0,
    ) -> None:
        self.images, self.timesteps, self.seed, self.flip = images, timesteps, seed, flip
        self.directions, self.kind, self.dropout = directions, kind, dropout
        self._order = order(len(images), seed, "recovery order")

    def __call__(self, samples: Sequence[int], device: torch.device) -> Batch:
        """The batch of these sample numbers, on ``device``."""
        indices = [self._order(sample) for sample in samples]
        timesteps = np.empty(len(samples), dtype=np.int64)
        mirrored, places = [], Places("recovery")
        for position, sample in enumerate(samples):
            draw = places.at(self.seed, sample)
            timesteps[position] = draw.integers(self.timesteps)
            mirrored.append(bool(self.flip and draw.integers(2)))
        images = self.images.read(indices, mirrored)
        numbered = [(self.seed, sample) for sample in samples]
        noise = normals("recovery noise", numbered, images.shape[1:])
        clean, drawn, t = (to_device(torch.from_numpy(part), device) for part in (images, noise, timesteps))
        conditions = self._conditions(indices, samples)
        if not self.directions:
            return Batch(clean, drawn, t, conditions)
        directions = normals("recovery direction", numbered, images.shape[1:])
        directions /= np.sqrt(np.square(directions).sum((1, 2, 3), keepdims=True))
        return Batch(clean, drawn, t, conditions, to_device(torch.from_numpy(directions), device))

    def _conditions(self, indices: Sequence[int], samples: Sequence[int]) -> list[Condition]:
        kept, places = self.images.conditions(self.kind, indices), Places("recovery condition")
        dropped = [places.at(self.seed, sample).random() < self.dropout for sample in samples]
        return [None if drop else condition for condition, drop in zip(kept, dropped, strict=True)]


def order(count: int, seed: int, stream: str) -> Callable[[int], int]:
    """The item that each sample number stands for: every epoch over ``count`` items is a permutation of its own."""
    permutation = lru_cache(maxsize=2)(lambda epoch: generator(stream, seed, epoch).permutation(count))

    def item(sample: int) -> int:
        epoch, place = divmod(sample, count)
        return int(permutation(epoch)[place])

    return item
