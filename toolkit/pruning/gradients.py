"""Gradients summed over timesteps up to a threshold's stop (Diff-Pruning, section 3.3), for each half of the images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.errors import DtkError
from toolkit.objective import timesteps_and_kind
from toolkit.progress import Progress, silent
from toolkit.pruning.scoring import Calibration, loss_at
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


class Gradients:
    """Sums of gradients by parameter; one sum for each part of the images, so that the parts can be compared."""

    def __init__(self, model: nn.Module, shares: Sequence[float]) -> None:
        self._model, self._shares = model, shares
        self._sums: list[dict[str, torch.Tensor | None]] = [{} for _ in shares]

    @contextlib.contextmanager
    def collecting(self, part: int) -> Iterator[None]:
        """Backward passes inside add to the sum of ``part``."""
        for name, parameter in self._model.named_parameters():
            parameter.grad = self._sums[part].get(name)
        yield
        for name, parameter in self._model.named_parameters():
            self._sums[part][name], parameter.grad = parameter.grad, None

    def total(self, name: str) -> torch.Tensor:
        """The gradient of the mean loss over all images; its parts are added when asked, to hold no third copy."""
        return torch.stack([self._sum(part, name) for part in range(len(self._sums))]).sum(0)

    def parts(self) -> list[Callable[[str], torch.Tensor]]:
        """For each part the gradient of the mean loss over its own images; empty where there is but one part."""

        def of(part: int) -> Callable[[str], torch.Tensor]:
            return lambda name: self._sum(part, name) / self._shares[part]

        return [of(part) for part in range(len(self._sums))] if len(self._sums) > 1 else []

    def _sum(self, part: int, name: str) -> torch.Tensor:
        found = self._sums[part].get(name)
        return torch.zeros_like(self._model.get_parameter(name)) if found is None else found


@dataclass(frozen=True)
class Reached:
    """A threshold's stop: what is worth recording, and the gradients up to there, valid until the next is asked for."""

    threshold: float
    facts: Mapping[str, Any]
    gradients: Gradients


def accumulate(
    model: nn.Module,
    calibration: Calibration,
    thresholds: Iterable[float],
    effort: Effort | None = None,
    progress: Progress = silent,
) -> Iterator[Reached]:
    """Sum gradients over t = 0, 1, 2, ... and yield each threshold when its stop is reached.

    The stop is the first t whose loss is below threshold x the running maximum, and is itself left out (the order of
    the paper's code); a threshold that no loss falls below stops at T. Noise draws take turns from one visited
    timestep to the next. Raises DtkError when a loss is not finite.
    """
    effort = effort or Effort()
    walk = _Walk(model, calibration, effort, progress)
    with _checkpointing(model, effort.checkpointing):
        yield from walk.every(thresholds) if effort.timesteps is None else walk.some(thresholds, effort.timesteps)


class _Walk:
    def __init__(self, model: nn.Module, calibration: Calibration, effort: Effort, progress: Progress) -> None:
        self.model, self.effort, self.progress = model, effort, progress
        self.calibration, self.count = calibration, len(calibration.images)
        self.steps, _ = timesteps_and_kind(calibration.scheduler)
        middle = self.count // 2
        halves = [(0, middle), (middle, self.count)] if middle else [(0, self.count)]
        size = effort.batch_size or self.count
        self.pieces = [
            (part, slice(start, min(start + size, end)))
            for part, (first, end) in enumerate(halves)
            for start in range(first, end, size)
        ]
        self.gradients = Gradients(model, [(end - start) / self.count for start, end in halves])
        self.at_once = size == self.count  # the graphs of all pieces fit beside each other
        model.zero_grad(set_to_none=True)

    def loss(self, piece: slice, t: int, draw: int) -> torch.Tensor:
        """The share that some of the images have in L_t."""
        images = self.calibration.part(piece, draw)
        with torch.autocast(self.calibration.images.device.type, torch.bfloat16, enabled=self.effort.bf16):
            return loss_at(self.model, images, t) * (len(images.images) / self.count)

    def look(self, t: int, draw: int, *, grad: bool = False) -> tuple[float, list[torch.Tensor]]:
        """L_t and the terms it is the sum of."""
        with torch.set_grad_enabled(grad):
            terms = [self.loss(piece, t, draw) for _, piece in self.pieces]
        loss = float(torch.stack([term.detach() for term in terms]).sum())
        if not np.isfinite(loss):
            raise DtkError(f"The calibration loss at timestep {t} is {loss}.", expected="finite weights and images")
        return loss, terms

    def add(self, t: int, draw: int, terms: Sequence[torch.Tensor] = (), weight: int = 1) -> None:
        """Add the gradient of L_t; ``terms`` are its terms where their graphs were kept."""
        for number, (part, piece) in enumerate(self.pieces):
            with self.gradients.collecting(part):
                (weight * (terms[number] if terms else self.loss(piece, t, draw))).backward()

    def every(self, thresholds: Iterable[float]) -> Iterator[Reached]:
        """Visit every timestep up to the last stop, as the paper's code does."""
        waiting = sorted(set(thresholds), reverse=True)
        losses: list[float] = []

        def reached(stop: int) -> Reached:
            facts = {"stop_timestep": stop, "timesteps_visited": stop, "losses": list(losses)}
            return Reached(waiting.pop(0), facts, self.gradients)

        for t in range(self.steps):
            draw = t % self.calibration.draws
            loss, terms = self.look(t, draw, grad=self.at_once)
            losses.append(loss)
            while waiting and loss < waiting[0] * max(losses):
                yield reached(t)
            if not waiting:
                break
            self.progress("scoring", t, self.steps)
            self.add(t, draw, terms if self.at_once else ())
        while waiting:
            yield reached(self.steps)
        self.progress("scoring", self.steps, self.steps)

    def some(self, thresholds: Iterable[float], count: int) -> Iterator[Reached]:
        """Find the stops by forward passes, then visit about ``count`` timesteps before the last of them."""
        looked: dict[int, float] = {}

        def look(t: int) -> float:
            looked[t] = self.look(t, t % self.calibration.draws)[0]
            return looked[t]

        waiting = sorted(stops(look, self.steps, thresholds).items(), key=lambda item: item[1])
        chosen = visits([stop for _, stop in waiting], count)

        def reached(visited: int) -> Reached:
            threshold, stop = waiting.pop(0)
            known = sorted(looked.items())
            facts = {"stop_timestep": stop, "timesteps_visited": visited, "timesteps_looked_at": [t for t, _ in known]}
            return Reached(threshold, facts | {"losses": [loss for _, loss in known]}, self.gradients)

        for number, visit in enumerate(chosen):
            while waiting[0][1] <= visit.start:
                yield reached(number)
            self.progress("scoring", number, len(chosen))
            self.add(visit.t, number % self.calibration.draws, weight=visit.weight)
        while waiting:
            yield reached(len(chosen))
        self.progress("scoring", len(chosen), len(chosen))


@contextlib.contextmanager
def _checkpointing(model: nn.Module, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    model.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()  # type: ignore[operator]
