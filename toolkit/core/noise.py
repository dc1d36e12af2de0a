"""Randomness as a function of its place: counter-based Philox, the same on every device and in every process.

A draw is named by a stream, a seed and a place (an image's number, a step), never by what was drawn before it. So a
resumed run, another batch size, a server and an evaluation see the same noise. Philox: Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011). This file needs only numpy, so that a server can carry a copy of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Places:
    """The seeds and places of one stream, for many small draws: one generator, moved from place to place.

    Making a generator takes longer than most draws, as numpy collects entropy for it that a key makes needless.
    """

    def __init__(self, stream: str) -> None:
        name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
        self._key, self._counter = np.array([0, name], np.uint64), np.zeros(4, np.uint64)
        self._start: dict[str, Any] = {  # of numpy's Philox, nothing drawn yet; holds the two arrays that change
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": self._key},
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._generator = np.random.Generator(np.random.Philox(key=self._key))

    def at(self, seed: int, *place: int) -> np.random.Generator:
        """The generator of a seed at ``place`` (up to three non-negative integers), until the next call."""
        if len(place) > 3:
            raise ValueError(f"a place has at most three coordinates, found {len(place)}")
        self._key[0] = seed % 2**64
        self._counter[1:] = (*place, *[0] * (3 - len(place)))  # the lowest word counts the draws made at this place
        self._generator.bit_generator.state = self._start
        return self._generator


def generator(stream: str, seed: int, *place: int) -> np.random.Generator:
    """The generator at ``place`` (up to three non-negative integers) of the stream."""
    return Places(stream).at(seed, *place)


def normal(stream: str, seed: int, *place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values of ``shape`` at ``place``."""
    return generator(stream, seed, *place).standard_normal(shape, dtype=np.float32)


def normals(stream: str, places: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values (N, \\*shape): a row for each (seed, \\*place)."""
    moved, drawn = Places(stream), np.empty((len(places), *shape), np.float32)
    for place, row in zip(places, drawn, strict=True):
        moved.at(*place).standard_normal(out=row, dtype=np.float32)
    return drawn


def sample_noise(seeds: Iterable[int], step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of a sampling loop, float32 (B, \\*shape): one seed per image, so that neighbours in a batch do not matter.

    Step 0 is the starting point x_T; step k > 0 is what an ancestral sampler adds after its k-th denoiser call.
    """
    return normals("sample", [(seed, step) for seed in seeds], shape)
