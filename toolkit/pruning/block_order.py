"""Which blocks go: those whose removal moves the prediction least on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers import ModelMixin

from toolkit.adapters.blocks import KeptBlocks, Removal, orders_from, removals
from toolkit.adapters.space import Values
from toolkit.core.errors import DtkError
from toolkit.core.progress import Progress, silent
from toolkit.diffusion.objective import midpoints, predicted
from toolkit.pruning import surgery
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.prunable import Prunable

POINTS = 10  # timesteps at which a removal is judged, spread evenly over 0..T-1


def ordered(
    prunable: Prunable,
    wanted: Sequence[Values],
    model: ModelMixin,
    calibration: Calibration | None,
    progress: Progress = silent,
    *,
    batch_size: int | None = None,
) -> tuple[Prunable, list[Removal]]:
    """The prunable with its blocks in the order in which they go, as far as any of the ``wanted`` values needs it.

    The order is greedy (toolkit.adapters.blocks.removals) by the mean squared change of the prediction over ``POINTS``
    timesteps; also returns each removal with that error. ``batch_size``: images at once, None = all; changes memory
    alone.
    """
    lowest = tuple(min(order) for order in zip(*wanted, strict=True))
    sizes = prunable.stack_sizes(prunable.space.configure(lowest))
    fewest = {name: stack.size - sizes[name] for name, stack in prunable.stacks.items()}
    if not any(fewest.values()):
        return prunable, []
    if calibration is None:
        raise DtkError("Which blocks go is tried out on images.", found="no images", do="give some: --data")
    pieces = calibration.pieces(batch_size)
    expected = _predictions(model, pieces)
    total = sum(
        len(prunable.stacks[name].removable) - removed for name, count in fewest.items() for removed in range(count)
    )
    error = _counting(partial(_error, prunable, model, pieces, expected), total, progress)
    order = list(removals(prunable.stacks, fewest, error))
    return replace(prunable, orders=orders_from(prunable.stacks, order)), order


def _error(
    prunable: Prunable, model: ModelMixin, pieces: Sequence[Calibration], expected: torch.Tensor, kept: KeptBlocks
) -> float:
    rules = prunable.adapter.blocks
    config = rules.resized(prunable.config, {name: len(stay) for name, stay in kept.items()})
    tried = surgery.shallower(model, config, rules.rename(prunable.config, kept))
    return float((_predictions(tried, pieces) - expected).double().square().mean())


def _predictions(model: ModelMixin, pieces: Sequence[Calibration]) -> torch.Tensor:
    """Predictions (POINTS, N, C, H, W) of the denoised part, learned variances left out."""
    channels = pieces[0].images.shape[1]

    def at(t: int) -> torch.Tensor:
        return torch.cat([predicted(piece.prediction_at(model, t), channels) for piece in pieces])

    with torch.inference_mode():
        return torch.stack([at(t) for t in midpoints(pieces[0].steps, POINTS)])


def _counting(error: Callable[[KeptBlocks], float], total: int, progress: Progress) -> Callable[[KeptBlocks], float]:
    done = 0

    def counted(kept: KeptBlocks) -> float:
        nonlocal done
        error_without = error(kept)
        done += 1
        progress("trying blocks", done, total)
        return error_without

    return counted
