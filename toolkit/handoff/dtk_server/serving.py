"""What stands between a server's requests and the loop: limits, batches, the known image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from . import manifest, png
from .engine import OnnxRuntimeEngine
from .loop import Loop, SampleNoise
from .request import Limits, Wish, wishes
from .schedule import Schedule


class Service:
    """A model version that answers: ``read`` a request, ``sample`` what several of them ask for."""

    def __init__(
        self, version: Path, stored: dict[str, Any], noise: SampleNoise, *, device: str, device_id: int, threads: int
    ) -> None:
        self.limits = Limits(**stored["limits"])
        image = tuple(stored["image"])
        engine = OnnxRuntimeEngine(
            manifest.inside(version, PurePosixPath(stored["engine"]["file"])),
            device=device,
            device_id=device_id,
            threads=threads,
            image=image,
            batch=self.limits.max_batch,
        )
        self._loop = Loop(engine, Schedule.read(version / "schedule.json"), image, noise)

    def read(self, arrays: Mapping[str, np.ndarray | None]) -> list[Wish]:
        """The images a request asks for. Raises RefusedError."""
        return wishes(arrays, self.limits)

    def sample(self, asked: Sequence[Wish]) -> list[np.ndarray]:
        """One image a wish, float32 (C, H, W) in [0, 1], in batches of at most the limit."""
        size = self.limits.max_batch
        batches = [asked[start : start + size] for start in range(0, len(asked), size)]
        return [image for batch in batches for image in self._loop.sample(batch)]

    def known_image(self, seed: int, steps: int) -> np.ndarray:
        """The image a handoff is recognised by, of class 0 where there are classes: uint8 (C, H, W)."""
        conditioning = {} if self.limits.classes is None else {"class_labels": np.array(0, np.int64)}
        (image,) = self.sample([Wish(seed, steps, conditioning)])
        return png.to_uint8(image)
