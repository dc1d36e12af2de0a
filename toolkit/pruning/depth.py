"""Which blocks go: those whose removal moves the prediction least on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers import ModelMixin

from toolkit.errors import DtkError
from toolkit.objective import predicted, timesteps_and_kind
from toolkit.progress import Progress, silent
from toolkit.pruning import surgery
from toolkit.pruning.blocks import KeptBlocks, Removal, orders_from, removals
from toolkit.pruning.engine import Engine
from toolkit.pruning.scoring import Calibration, prediction_at
from toolkit.pruning.space import Values

POINTS = 10  # timesteps at which a removal is judged, spread evenly over 0..T-1


def ordered(
    engine: Engine,
    wanted: Sequence[Values],
    model: ModelMixin,
    calibration: Calibration | None,
    progress: Progress = silent,
) -> tuple[Engine, list[Removal]]:
    """The engine with its blocks in the order in which they go, as far as any of the ``wanted`` values needs it.

    The order is greedy (toolkit.pruning.blocks.removals) by the mean squared change of the prediction over ``POINTS``
    timesteps; also returns each removal with that error.
    """
    lowest = [min(found) for found in zip(*wanted, strict=True)]
    pairs = zip(engine.space.variables, lowest, strict=True)
    fewest = {variable.name: variable.dense - value for variable, value in pairs if variable.kind == "blocks"}
    if not any(fewest.values()):
        return engine, []
    if calibration is None:
        raise DtkError("Which blocks go is tried out on images.", found="no images", do="give some: --data")
    expected = _predictions(model, calibration)
    total = sum(
        len(engine.stacks[name].removable) - removed for name, count in fewest.items() for removed in range(count)
    )
    error = _counting(partial(_error, engine, model, calibration, expected), total, progress)
    found = list(removals(engine.stacks, fewest, error))
    return replace(engine, orders=orders_from(engine.stacks, found)), found


def _error(
    engine: Engine, model: ModelMixin, calibration: Calibration, expected: torch.Tensor, kept: KeptBlocks
) -> float:
    rules = engine.adapter.blocks
    every = {name: tuple(range(stack.size)) for name, stack in rules.stacks(engine.config).items()} | dict(kept)
    config = rules.resized(engine.config, {name: len(stay) for name, stay in every.items()})
    tried = surgery.shallower(model, config, rules.rename(engine.config, every))
    return float((_predictions(tried, calibration) - expected).double().square().mean())


def _predictions(model: ModelMixin, calibration: Calibration) -> torch.Tensor:
    """Predictions (POINTS, N, C, H, W) of the denoised part, learned variances left out."""
    steps, _ = timesteps_and_kind(calibration.scheduler)
    channels = calibration.images.shape[1]
    with torch.inference_mode():
        at = [prediction_at(model, calibration, int(steps * (i + 0.5) / POINTS)) for i in range(POINTS)]
    return torch.stack([predicted(prediction, channels) for prediction in at])


def _counting(error: Callable[[KeptBlocks], float], total: int, progress: Progress) -> Callable[[KeptBlocks], float]:
    done = 0

    def counted(kept: KeptBlocks) -> float:
        nonlocal done
        found = error(kept)
        done += 1
        progress("trying blocks", done, total)
        return found

    return counted
