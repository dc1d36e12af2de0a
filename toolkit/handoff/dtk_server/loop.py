"""The sampling loop over images that differ in seed, steps and class: none depends on its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .choice import Stepper
from .request import Wish
from .schedule import Schedule, Trajectory


class SampleNoise(Protocol):
    """toolkit.core.noise.sample_noise: float32 (B, *shape), one seed per image."""

    def __call__(self, seeds: Sequence[int], step: int, shape: tuple[int, ...]) -> np.ndarray: ...


class Loop:
    """Samples a batch on one stepper. ``noise`` is toolkit.core.noise.sample_noise, here or its copy.

    ``shape`` is that of one sample, an image or a latent; ``decode`` makes images (B, C, H, W) of latents.
    """

    def __init__(
        self,
        stepper: Stepper,
        schedule: Schedule,
        shape: tuple[int, ...],
        noise: SampleNoise,
        decode: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._stepper, self._schedule, self._shape, self._noise = stepper, schedule, shape, noise
        self._decode = decode
        self._inputs = set(stepper.inputs)

    def sample(self, wishes: Sequence[Wish]) -> np.ndarray:
        """One image per wish, float32 (B, C, H, W) in [0, 1].

        The longest trajectories come first, so that the images under way are always the first rows and the finished
        ones fall off the end: a short request costs its own steps only.
        """
        order = sorted(range(len(wishes)), key=lambda number: -wishes[number].steps)
        ranked = [wishes[number] for number in order]
        ways = [self._schedule.trajectories[wish.steps] for wish in ranked]
        samples = np.empty((len(wishes), *self._shape), np.float32)
        samples[order] = self._descend(ranked, ways)
        images = samples if self._decode is None else self._decode(samples)
        return np.clip(images / 2 + 0.5, 0.0, 1.0)

    def _descend(self, ranked: Sequence[Wish], ways: Sequence[Trajectory]) -> np.ndarray:
        done = np.empty((len(ranked), *self._shape), np.float32)
        start = self._noise([wish.seed for wish in ranked], 0, self._shape)
        self._stepper.load(start * np.float32(self._schedule.initial_sigma))
        active = len(ranked)
        for number in range(ranked[0].steps):
            self._stepper.step(active, self._feed(ranked[:active], ways[:active], number))
            left = sum(wish.steps > number + 1 for wish in ranked)
            done[left:active] = self._stepper.rows(left, active)
            active = left
        return done

    def _feed(self, ranked: Sequence[Wish], ways: Sequence[Trajectory], number: int) -> dict[str, np.ndarray]:
        feed = {
            "timestep": np.stack([way.timesteps[number] for way in ways]),
            "coefficients": np.stack([way.coefficients[number] for way in ways]),
        }
        if "noise" in self._inputs:
            feed["noise"] = self._noise([wish.seed for wish in ranked], number + 1, self._shape)
        for name in ranked[0].conditioning:
            feed[name] = np.stack([wish.conditioning[name] for wish in ranked])
        return feed
