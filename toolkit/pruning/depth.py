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
    *,
    batch_size: int | None = None,
) -> tuple[Engine, list[Removal]]:
    """The engine with its blocks in the order in which they go, as far as any of the ``wanted`` values needs it.

    The order is greedy (toolkit.pruning.blocks.removals) by the mean squared change of the prediction over ``POINTS``
    timesteps; also returns each removal with that error. ``batch_size``: images at once, None = all; changes memory
    alone.
    """
    lowest = [min(found) for found in zip(*wanted, strict=True)]
    pairs = zip(engine.space.variables, lowest, strict=True)
    fewest = {variable.name: variable.dense - value for variable, value in pairs if variable.kind == "blocks"}
    if not any(fewest.values()):
        return engine, []
    if calibration is None:
        raise DtkError("Which blocks go is tried out on images.", found="no images", do="give some: --data")
    pieces = calibration.pieces(batch_size)
    expected = _predictions(model, pieces)
    total = sum(
        len(engine.stacks[name].removable) - removed for name, count in fewest.items() for removed in range(count)
    )
    error = _counting(partial(_error, engine, model, pieces, expected), total, progress)
    found = list(removals(engine.stacks, fewest, error))
    return replace(engine, orders=orders_from(engine.stacks, found)), found


def _error(
    engine: Engine, model: ModelMixin, pieces: Sequence[Calibration], expected: torch.Tensor, kept: KeptBlocks
) -> float:
    rules = engine.adapter.blocks
    every = {name: tuple(range(stack.size)) for name, stack in rules.stacks(engine.config).items()} | dict(kept)
    config = rules.resized(engine.config, {name: len(stay) for name, stay in every.items()})
    tried = surgery.shallower(model, config, rules.rename(engine.config, every))
    return float((_predictions(tried, pieces) - expected).double().square().mean())


def _predictions(model: ModelMixin, pieces: Sequence[Calibration]) -> torch.Tensor:
    """Predictions (POINTS, N, C, H, W) of the denoised part, learned variances left out."""
    steps, _ = timesteps_and_kind(pieces[0].scheduler)
    channels = pieces[0].images.shape[1]

    def at(t: int) -> torch.Tensor:
        return torch.cat([predicted(prediction_at(model, piece, t), channels) for piece in pieces])

    with torch.inference_mode():
        return torch.stack([at(int(steps * (i + 0.5) / POINTS)) for i in range(POINTS)])


def _counting(error: Callable[[KeptBlocks], float], total: int, progress: Progress) -> Callable[[KeptBlocks], float]:
    done = 0

    def counted(kept: KeptBlocks) -> float:
        nonlocal done
        found = error(kept)
        done += 1
        progress("trying blocks", done, total)
        return found

    return counted
