"""What each training step sees: a function of the seed and the sample's number, of nothing else.

Sample n = step x batch size + position. So a resumed run, another number of processes and another micro-batch see the
same images, flips, timesteps and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toolkit.data.images import Images
from toolkit.noise import generator, normal


@dataclass(frozen=True)
class Batch:
    """Clean images and noise (B, C, H, W), timesteps (B,), and where a loss wants it a unit vector an image."""

    images: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    direction: torch.Tensor | None = None


class Batches:
    """Draws samples by number from the training images; ``directions`` adds a random unit vector to each."""

    def __init__(self, images: Images, timesteps: int, seed: int, flip: bool, *, directions: bool = False) -> None:
        self.images, self.timesteps, self.seed, self.flip = images, timesteps, seed, flip
        self.directions = directions
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __call__(self, samples: Sequence[int], device: torch.device) -> Batch:
        """The batch of these sample numbers, on ``device``."""
        pixels = self.images.read([self._image(sample) for sample in samples])
        timesteps = np.empty(len(samples), dtype=np.int64)
        for position, sample in enumerate(samples):
            draw = generator("recovery", self.seed, sample)
            timesteps[position] = draw.integers(self.timesteps)
            if self.flip and draw.integers(2):
                pixels[position] = pixels[position][:, :, ::-1]
        noise = self._normal("recovery noise", samples)
        parts = [pixels, noise, timesteps]
        if self.directions:
            directions = self._normal("recovery direction", samples)
            parts.append(directions / np.sqrt(np.square(directions).sum((1, 2, 3), keepdims=True)))
        return Batch(*(torch.from_numpy(part).to(device) for part in parts))

    def _normal(self, stream: str, samples: Sequence[int]) -> np.ndarray:
        return np.stack([normal(stream, self.seed, sample, shape=self.images.shape) for sample in samples])

    def _image(self, sample: int) -> int:
        """The image of a sample: each epoch is a permutation of its own."""
        epoch, place = divmod(sample, len(self.images))
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                generator("recovery order", self.seed, epoch).permutation(len(self.images)),
            )
        return int(self._order[place])
