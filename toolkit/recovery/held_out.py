"""How far recovery is, on images that nothing is trained on, and whether more steps would show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.adapters.inputs import keywords
from toolkit.core.files import read_json, write_json
from toolkit.data.examples import Examples
from toolkit.diffusion.objective import noisy, predicted, target, timesteps_and_kind
from toolkit.recovery.batches import Batches
from toolkit.recovery.objective import Recovery

IMAGES = 64
WORTH = 0.02  # of the error: what doubling the steps should at least win


class HeldOut:
    """Errors (N,) of a student's averaged weights on held-out images, each noised at one timestep, always the same.

    They are to what the teacher predicts, or to the training target if there is no teacher. ``path`` keeps them by
    step, those up to ``resumed_at``.
    """

    def __init__(self, recovery: Recovery, examples: Examples, seed: int, path: Path, resumed_at: int) -> None:
        self.path, self.by_step = path, _read(path, resumed_at)
        scheduler = recovery.scheduler
        kind = recovery.conditioner.conditioning.kind
        batches = Batches(examples, timesteps_and_kind(scheduler)[0], seed, flip=False, kind=kind)
        batch = batches(range(min(IMAGES, len(examples))), recovery.device)
        self.given = (noisy(scheduler, batch.images, batch.noise, batch.t), batch.t)
        self.conditioning = recovery.conditioner(batch.conditions)
        self.target = target(scheduler, batch.images, batch.noise, batch.t)
        if recovery.teacher is not None:
            self.target = self._prediction(recovery.teacher, dict(recovery.teacher.named_parameters()))

    def __call__(self, step: int, network: nn.Module, average: Mapping[str, torch.Tensor]) -> None:
        """Judge the weights of a step; ``network`` itself stays as it is."""
        gaps = (self._prediction(network, average) - self.target).square().flatten(1).mean(1)
        self.by_step[step] = gaps.double().tolist()
        write_json(self.path, {str(number): errors for number, errors in sorted(self.by_step.items())})

    def _prediction(self, network: nn.Module, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            named = {"return_dict": False, **keywords(self.conditioning)}
            made = torch.func.functional_call(network, dict(weights), self.given, named)[0]
        return predicted(made, self.given[0].shape[1]).float()


def stopping_curve(path: Path) -> dict[str, Any] | None:
    """The mean error by step, and in words what the second half of the steps won.

    None without two points, two images or an error. The gain is paired by image, with a normal 95 % interval. While the
    learning rate falls it flatters the second half: the words never call training finished too early.
    """
    by_step = _read(path, None)
    if len(by_step) < 2:
        return None
    steps, last = sorted(by_step), max(by_step)
    half = min(steps[:-1], key=lambda step: abs(step - last / 2))
    before, after = np.array(by_step[half]), np.array(by_step[last])
    if len(before) < 2 or not before.mean():
        return None
    gains = (before - after) / before.mean()
    gain, reach = float(gains.mean()), float(1.96 * gains.std(ddof=1) / len(gains) ** 0.5)
    more = "more would show" if gain - reach > WORTH else "more would hardly show"
    return {
        "steps": steps,
        "errors": [float(np.mean(by_step[step])) for step in steps],
        "images": len(gains),
        "gain": {"from": half, "to": last, "mean": gain, "low": gain - reach, "high": gain + reach},
        "verdict": f"steps {half:,} to {last:,} changed the held-out error by {-gain:+.1%} (+-{reach:.1%}): {more}",
    }


def _read(path: Path, last: int | None) -> dict[int, list[float]]:
    """Errors by step, none behind step ``last``."""
    kept = read_json(path) if path.is_file() else {}
    return {int(step): errors for step, errors in kept.items() if last is None or int(step) <= last}
