"""The timesteps of a sampling loop and the coefficients of each of its updates, for any number of steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """One image's way down: timesteps int64 (N,), coefficients float32 (N, K), in the order they are taken."""

    timesteps: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True)
class Schedule:
    """Trajectories by their number of steps. ``initial_sigma`` scales the noise a loop starts from."""

    initial_sigma: float
    trajectories: dict[int, Trajectory]

    @classmethod
    def read(cls, path: Path) -> Schedule:
        """The schedule a handoff wrote."""
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            initial_sigma=stored["initial_sigma"],
            trajectories={int(steps): _trajectory(entry) for steps, entry in stored["by_steps"].items()},
        )


def _trajectory(entry: dict[str, Any]) -> Trajectory:
    return Trajectory(np.array(entry["timesteps"], np.int64), np.array(entry["coefficients"], np.float32))
