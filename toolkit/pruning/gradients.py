"""Gradients summed over timesteps up to a threshold's stop (Diff-Pruning, section 3.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.core.progress import Progress, silent
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.timesteps import stops, visits


@dataclass(frozen=True)
class Effort:
    """What a scoring may cost.

    ``timesteps``: how many of those before the stop are visited; None is every one, as the paper has it.
    ``batch_size``: images at once, None = all; changes memory, not the sum. ``bf16``: forward passes in bfloat16
    autocast. ``checkpointing``: activations are computed again in the backward pass instead of kept.
    """

    timesteps: int | None = None
    batch_size: int | None = None
    bf16: bool = False
    checkpointing: bool = False


Gradient = Callable[[str], torch.Tensor]
"""A parameter's gradient, given its name."""


@dataclass(frozen=True)
class Reached:
    """A threshold's stop: what is worth recording, and the gradients up to there, valid until the next is requested."""

    threshold: float
    facts: Mapping[str, Any]
    gradient: Gradient


def accumulate(
    model: nn.Module,
    calibration: Calibration,
    thresholds: Iterable[float],
    effort: Effort | None = None,
    progress: Progress = silent,
) -> Iterator[Reached]:
    """Sum gradients over t = 0, 1, 2, ... in place and yield each threshold when its stop is reached.

    The stop is the first t whose loss is below threshold x the running maximum, and is itself left out (the order of
    the paper's code); a threshold that no loss falls below stops at T. Noise draws alternate from one visited
    timestep to the next. Raises DtkError when a loss is not finite.
    """
    effort = effort or Effort()
    walk = _Walk(model, calibration, effort, progress)
    with _collecting(model, effort.checkpointing):
        yield from walk.every(thresholds) if effort.timesteps is None else walk.some(thresholds, effort.timesteps)


def accumulate_to(
    model: nn.Module, calibration: Calibration, ends: Mapping[float, int], effort: Effort
) -> Iterator[Reached]:
    """Sum gradients up to the known stop of each threshold, over about ``effort.timesteps`` timesteps."""
    walk = _Walk(model, calibration, effort, silent)
    with _collecting(model, effort.checkpointing):
        yield from walk.up_to(ends, effort.timesteps or walk.steps)


class _Walk:
    def __init__(self, model: nn.Module, calibration: Calibration, effort: Effort, progress: Progress) -> None:
        self.model, self.effort, self.progress = model, effort, progress
        self.calibration, self.count = calibration, len(calibration.images)
        self.steps = calibration.steps
        size = effort.batch_size or self.count
        self.pieces = [slice(start, start + size) for start in range(0, self.count, size)]

    def loss(self, piece: slice, t: int, draw: int) -> torch.Tensor:
        """The share that some of the images have in L_t."""
        images = self.calibration.part(piece, draw)
        with torch.autocast(self.calibration.images.device.type, torch.bfloat16, enabled=self.effort.bf16):
            return images.loss_at(self.model, t) * (len(images.images) / self.count)

    def look(self, t: int, draw: int, *, grad: bool = False) -> tuple[float, list[torch.Tensor]]:
        """L_t and the terms it is the sum of."""
        with torch.set_grad_enabled(grad):
            terms = [self.loss(piece, t, draw) for piece in self.pieces]
        loss = float(torch.stack([term.detach() for term in terms]).sum())
        if not np.isfinite(loss):
            raise DtkError(f"The calibration loss at timestep {t} is {loss}.", expected="finite weights and images")
        return loss, terms

    def add(self, t: int, draw: int, weight: int = 1) -> None:
        """Add the gradient of L_t, one piece after the other."""
        for piece in self.pieces:
            (weight * self.loss(piece, t, draw)).backward()

    def gradient(self, name: str) -> torch.Tensor:
        """What was summed so far."""
        parameter = self.model.get_parameter(name)
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def every(self, thresholds: Iterable[float]) -> Iterator[Reached]:
        """Visit every timestep up to the last stop, as the paper's code does."""
        waiting = sorted(set(thresholds), reverse=True)
        losses: list[float] = []

        def reached(stop: int) -> Reached:
            facts = {"stop_timestep": stop, "timesteps_visited": stop, "losses": list(losses)}
            return Reached(waiting.pop(0), facts, self.gradient)

        for t in range(self.steps):
            draw = t % self.calibration.draws
            loss, terms = self.look(t, draw, grad=len(self.pieces) == 1)  # the graph of several would be kept as well
            losses.append(loss)
            while waiting and loss < waiting[0] * max(losses):
                yield reached(t)
            if not waiting:
                break
            self.progress("scoring", t, self.steps)
            if len(self.pieces) == 1:
                terms[0].backward()
            else:
                self.add(t, draw)
        while waiting:
            yield reached(self.steps)
        self.progress("scoring", self.steps, self.steps)

    def some(self, thresholds: Iterable[float], count: int) -> Iterator[Reached]:
        """Find the stops by forward passes, then visit about ``count`` timesteps before the last of them."""
        looked: dict[int, float] = {}

        def look(t: int) -> float:
            looked[t] = self.look(t, t % self.calibration.draws)[0]
            return looked[t]

        stops_found = stops(look, self.steps, thresholds)
        known = sorted(looked.items())
        facts = {"timesteps_looked_at": [t for t, _ in known], "losses": [loss for _, loss in known]}
        for reached in self.up_to(stops_found, count):
            yield replace(reached, facts={**reached.facts, **facts})

    def up_to(self, ends: Mapping[float, int], count: int) -> Iterator[Reached]:
        """Visit about ``count`` timesteps before the last of the stops in ``ends``."""
        waiting = sorted(ends.items(), key=lambda item: item[1])
        chosen = visits(ends.values(), count)

        def reached(visited: int) -> Reached:
            threshold, stop = waiting.pop(0)
            return Reached(threshold, {"stop_timestep": stop, "timesteps_visited": visited}, self.gradient)

        for number, visit in enumerate(chosen):
            while waiting[0][1] <= visit.start:
                yield reached(number)
            self.progress("scoring", number, len(chosen))
            self.add(visit.t, number % self.calibration.draws, weight=visit.weight)
        while waiting:
            yield reached(len(chosen))
        self.progress("scoring", len(chosen), len(chosen))


@contextlib.contextmanager
def _collecting(model: nn.Module, checkpointing: bool) -> Iterator[None]:
    """Gradients start at zero and are gone afterwards; activations are checkpointed in between if requested."""
    model.zero_grad(set_to_none=True)
    if checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        if checkpointing:
            model.disable_gradient_checkpointing()  # type: ignore[operator]
