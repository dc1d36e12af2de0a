"""A set of images of one shape, read by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from toolkit.core.errors import DtkError
from toolkit.core.files import value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.data.conditions import Condition, Conditions, Kind


class Reader(Protocol):
    """Reads image ``number`` as uint8 (H, W, C) of the set's shape."""

    def __call__(self, number: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Images:
    """Images of one shape: where they come from, how many, their hash, and a way to read them.

    ``sha256`` covers the stored bytes of every readable image of the source, in order. ``numbers`` are the images of
    this subset, as numbers of the whole source, so that noise and order can be tied to an image. ``skipped`` names the
    files that were no readable images, with the reason; ``preparation`` says how they were brought to this shape.
    ``described`` holds the conditions of every readable image of the source.
    """

    source: str
    shape: tuple[int, int, int]  # C, H, W
    sha256: str
    numbers: tuple[int, ...]
    reader: Reader
    skipped: tuple[str, ...] = ()
    preparation: str = "as stored"
    described: Conditions = field(default_factory=Conditions)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what this subset yields: source, preparation, shape, the images' numbers, and their conditions."""
        plain = [self.sha256, self.preparation, self.shape, self.numbers]
        return value_sha256([*plain, dict(self.described.values)] if self.described.values else plain)

    def read_uint8(self, indices: Sequence[int]) -> np.ndarray:
        """The images at ``indices`` of this subset, uint8 (N, H, W, C)."""
        if not len(indices):
            channels, height, width = self.shape
            return np.empty((0, height, width, channels), np.uint8)
        return np.stack([self.reader(self.numbers[index]) for index in indices])

    def read(self, indices: Sequence[int], mirrored: Sequence[bool] = ()) -> np.ndarray:
        """The images at ``indices`` of this subset, float32 (N, C, H, W) in [-1, 1]; some of them mirrored."""
        pixels = self.read_uint8(indices)
        for position, flip in enumerate(mirrored):
            if flip:
                pixels[position] = pixels[position][:, ::-1].copy()
        scaled = pixels.astype(np.float32) / 127.5 - 1.0
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def prepare(self, progress: Progress = silent, *, mirrored: bool = False) -> None:
        """Nothing: images are read as they are stored (toolkit.data.examples)."""

    def conditions(self, kind: Kind, indices: Sequence[int]) -> list[Condition]:
        """The class or the caption of the images at ``indices``; None if the source gives none."""
        values = self.described.values.get(kind)
        return [None if values is None else values[self.numbers[index]] for index in indices]

    def subset(self, indices: Sequence[int]) -> Images:
        """The images at ``indices``, in that order."""
        return replace(self, numbers=tuple(self.numbers[index] for index in indices))

    def require(self, count: int, purpose: str) -> None:
        """Raise DtkError unless there are ``count`` images; ``purpose`` says what needs them."""
        if len(self) < count:
            skipped = f" ({len(self.skipped)} files were skipped)" if self.skipped else ""
            raise DtkError(
                f"Too few images in {self.source} for {purpose}.",
                found=f"{len(self)} images{skipped}",
                expected=f"at least {count}",
                do="give more images, or request fewer",
            )
