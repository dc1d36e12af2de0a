"""The timesteps by which a dense model leads a student that takes few steps, and those at which the student lands.

The student's last step starts at little noise, where what a small network leaves of it does not show; the others start
at equal distances before it, closer than all timesteps would allow: the first step takes pure noise for that of its own
timestep, and those that are left, where details are made, have less to do (decision 15). The path passes through
all of them and ends with next to no noise (decision 10).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from toolkit.core.errors import UsageError

LITTLE_NOISE = 0.205  # its standard deviation, of a state whose variance is 1: timestep 60 of DDPM's 1,000
CLOSER = 0.8  # the distance between the student's timesteps, of what it would be if they divided all timesteps
LAST = 1.5  # how much closer the path's timesteps are before the student's last, where the image gets its details


def landings_and_path(scheduler: Any, landings: int, steps: int) -> tuple[list[int], list[int]]:
    """The student's ``landings`` timesteps, and the ``steps`` of a path through them, both falling.

    A single step starts where the path does. Raises UsageError if the scheduler has not as many timesteps.
    """
    spread, total = (1 - scheduler.alphas_cumprod).sqrt(), int(scheduler.config.num_train_timesteps)
    apart = int(total * CLOSER) // landings
    last = max((t for t in range(apart) if spread[t] <= LITTLE_NOISE), default=0)
    own = [last + apart * place for place in reversed(range(landings))]
    end = [total // 100] if total // 100 < last else []
    path = sorted({*_with_between([total, *own], steps - len(end)), *end}, reverse=True)
    if len(path) != steps:
        raise UsageError(
            f"No path of {steps} steps passes through the student's {landings}.",
            found=f"{total} training timesteps, the student's {own}",
            do=f"set recover.teacher_steps to at least {landings + 2} and no more than the timesteps allow",
        )
    return (path[:1] if landings == 1 else own), path


def _with_between(edges: list[int], count: int) -> list[int]:
    """``count`` timesteps: all ``edges`` but the first, which is pure noise, and others where the gaps are largest."""
    gaps = -np.diff(edges).astype(float)
    gaps[1:][-1:] *= LAST  # of a single landing there is none
    inside = np.zeros(len(gaps), dtype=int)
    for _ in range(count - len(edges) + 1):
        inside[(gaps / (inside + 1)).argmax()] += 1
    parts = inside + 1.0
    parts[0] -= 0.5  # a path starts half a step below pure noise
    between = [
        round(below + (above - below) * place / part)
        for (above, below), part, number in zip(pairwise(edges), parts, inside.tolist(), strict=True)
        for place in range(1, number + 1)
    ]
    return [*edges[1:], *between]
