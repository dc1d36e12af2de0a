"""Trajectories of the dense model: from noise to an image, seen at the few timesteps that a student will take.

Each is a function of its number. They are computed once and kept in shards, each whole or absent, in a folder that is
named by all they depend on: an interrupted run, another method and another training continue with what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit.core.files import replacing
from toolkit.core.noise import generator, normals
from toolkit.core.progress import Progress, silent
from toolkit.data.conditions import Condition, Kind
from toolkit.data.examples import Examples
from toolkit.diffusion.guidance import guided
from toolkit.diffusion.sampling import Predict, denoise
from toolkit.models.conditioners import Conditioner

SHARD = 64  # trajectories; a killed process loses at most one shard


@dataclass(frozen=True)
class Trajectories:
    """``count`` trajectories of ``predict``, numbered from 0.

    ``scheduler`` is the solver, set to the dense model's steps. What is kept is the noise, the states at
    the timesteps ``kept``, and the image. Number n has the condition of training image n, or the null condition in a
    share ``dropout`` of them. ``shape``: one image's (C, H, W); ``guidance``: classifier-free, folded into what is
    kept; ``at_once``: how many are computed together.
    """

    predict: Predict
    scheduler: Any
    kept: frozenset[int]
    shape: tuple[int, ...]
    count: int
    seed: int
    images: Examples
    kind: Kind
    dropout: float
    conditioner: Conditioner
    guidance: float
    folder: Path
    device: torch.device
    at_once: int

    def prepare(self, share: tuple[int, int] = (0, 1), progress: Progress = silent) -> None:
        """Compute what is not stored yet: of process i of n, ``share`` (i, n), every n-th shard from the i-th on."""
        starts = range(share[0] * SHARD, self.count, share[1] * SHARD)
        for done, start in enumerate(starts):
            progress("trajectories of the dense model", done, len(starts))
            if self._stored(start) is None:
                with replacing(self._path(start)) as temporary, temporary.open("wb") as stream:
                    np.save(stream, self._computed(range(start, start + SHARD)), allow_pickle=False)
        progress("trajectories of the dense model", len(starts), len(starts))

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """The points of these trajectories from noise to image: float32 (N, points, C, H, W)."""
        shards = {start: self._required(start) for start in {number // SHARD * SHARD for number in numbers}}
        return np.stack([shards[number // SHARD * SHARD][number % SHARD] for number in numbers])

    def conditions(self, numbers: Sequence[int]) -> list[Condition]:
        """The condition of each."""
        conditions = self.images.conditions(self.kind, [number % len(self.images) for number in numbers])
        dropped = [generator("teaching condition", self.seed, n).random() < self.dropout for n in numbers]
        return [None if drop else condition for condition, drop in zip(conditions, dropped, strict=True)]

    def _computed(self, numbers: Sequence[int]) -> np.ndarray:
        parts = (numbers[start : start + self.at_once] for start in range(0, len(numbers), self.at_once))
        return np.concatenate([self._together(part) for part in parts])

    def _together(self, numbers: Sequence[int]) -> np.ndarray:
        noise = normals("teaching noise", [(self.seed, number) for number in numbers], self.shape)
        x = torch.from_numpy(noise).to(self.device)
        points = [x]
        with torch.inference_mode():
            null = self.conditioner([None]) if self.guidance != 1 else {}
            predict = guided(self.predict, null, self.guidance)
            conditioning = self.conditioner(self.conditions(numbers))
            solver = deepcopy(self.scheduler)
            for timestep in solver.timesteps.tolist():
                points += [x] if timestep in self.kept else []
                batched = torch.full((len(x),), timestep, dtype=torch.int64, device=self.device)
                x = denoise(predict, solver, "dpm-solver", x, [(timestep, batched)], conditioning)
        return torch.stack([*points, x], dim=1).float().cpu().numpy()

    def _required(self, start: int) -> np.ndarray:
        shard = self._stored(start)
        return self._computed(range(start, start + SHARD)) if shard is None else shard

    def _stored(self, start: int) -> np.ndarray | None:
        """A shard, memory-mapped; None if it is absent or damaged."""
        try:
            shard = np.load(self._path(start), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return shard if len(shard) == SHARD else None

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08}.npy"
