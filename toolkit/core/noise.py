"""Randomness as a function of its place: counter-based Philox, the same on every device and in every process.

A draw is named by a stream, a seed and a place (an image's number, a step), never by what was drawn before it. So a
resumed run, another batch size, a server and an evaluation see the same noise. Philox: Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011). This file needs only numpy, so that a server can carry a copy of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def generator(stream: str, seed: int, *place: int) -> np.random.Generator:
    """The generator at ``place`` (up to three non-negative integers) of the stream."""
    if len(place) > 3:
        raise ValueError(f"a place has at most three coordinates, found {len(place)}")
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    counter = [0, *place, *[0] * (3 - len(place))]  # the lowest word counts the draws made at this place
    key = np.array([seed % 2**64, name], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(counter, dtype=np.uint64)))


def normal(stream: str, seed: int, *place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values of ``shape`` at ``place``."""
    return generator(stream, seed, *place).standard_normal(shape, dtype=np.float32)


def sample_noise(seeds: Iterable[int], step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of a sampling loop, float32 (B, \\*shape): one seed per image, so that neighbours in a batch do not matter.

    Step 0 is the starting point x_T; step k > 0 is what an ancestral sampler adds after its k-th denoiser call.
    """
    return np.stack([normal("sample", seed, step, shape=shape) for seed in seeds])
