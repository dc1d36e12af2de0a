"""Randomness as a function of its place: counter-based Philox, the same on every device and in every process.

A draw is named by a stream, a seed and a place (an image's number, a step), never by what was drawn before it. So a
resumed run, another batch size, a server and an evaluation see the same noise. Philox: Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011). This file needs only numpy, so that a server can carry a copy of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


class Places:
    """The places of one stream and seed, for many small draws: one generator, moved from place to place.

    Making a generator takes longer than most draws, as numpy collects entropy for it that a key makes needless.
    """

    def __init__(self, stream: str, seed: int) -> None:
        name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
        self._key = np.array([seed % 2**64, name], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=self._key))

    def at(self, *place: int) -> np.random.Generator:
        """The generator at ``place`` (up to three non-negative integers), until the next call."""
        if len(place) > 3:
            raise ValueError(f"a place has at most three coordinates, found {len(place)}")
        counter = [0, *place, *[0] * (3 - len(place))]  # the lowest word counts the draws made at this place
        self._generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.array(counter, dtype=np.uint64), "key": self._key},
            **_NOTHING_DRAWN,
        }
        return self._generator


_NOTHING_DRAWN = {"buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}


def generator(stream: str, seed: int, *place: int) -> np.random.Generator:
    """The generator at ``place`` (up to three non-negative integers) of the stream."""
    return Places(stream, seed).at(*place)


def normal(stream: str, seed: int, *place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values of ``shape`` at ``place``."""
    return generator(stream, seed, *place).standard_normal(shape, dtype=np.float32)


def sample_noise(seeds: Iterable[int], step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of a sampling loop, float32 (B, \\*shape): one seed per image, so that neighbours in a batch do not matter.

    Step 0 is the starting point x_T; step k > 0 is what an ancestral sampler adds after its k-th denoiser call.
    """
    return np.stack([normal("sample", seed, step, shape=shape) for seed in seeds])
