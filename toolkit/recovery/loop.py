"""The training loop. ``accelerate`` runs it: one process or several, half precision if requested."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.recovery.ahead import ahead
from toolkit.recovery.compiled import check_gradients
from toolkit.recovery.memory import is_out_of_memory, largest_that_fits, out_of_memory
from toolkit.recovery.objective import Objective
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State

Losses = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """What does not change while training: the accelerator, the network, what it is to learn and the settings.

    ``student`` is what is called, ``network`` the module inside it; they differ if processes share the work.
    ``losses``: the weight of each that the objective gives.
    """

    accelerator: Accelerator
    student: nn.Module
    network: nn.Module
    objective: Objective[Any]
    settings: RecoverSettings
    losses: Mapping[str, float]


def learning_rate(settings: RecoverSettings, step: int) -> float:
    """The learning rate of step ``step`` (0-based): linear warm-up, then a cosine to zero or a constant."""
    rise = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    if settings.schedule == "constant":
        return settings.learning_rate * rise
    progress = max(0, step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train(training: Training, state: State) -> Iterator[Losses]:
    """Train from ``state.step`` up to ``settings.steps`` and yield the losses after each step.

    The caller saves, logs and stops. Raises DtkError when a loss or gradient is not finite, or if compiled networks
    have other gradients than they should.
    """
    settings = training.settings
    if settings.compile and state.step < settings.steps:
        _check_compiled(training, state)
    steps = range(state.step, settings.steps)
    parts = (part for step in steps for part in _parts(training, step))
    with closing(ahead(training.objective.load, parts, training.accelerator.device)) as batches:
        yield from _steps(training, state, batches)


def _steps(training: Training, state: State, batches: Iterator[Any]) -> Iterator[Losses]:
    settings = training.settings
    while state.step < settings.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        started = time.monotonic()
        losses = _one_step(training, state, batches)
        state.seconds += time.monotonic() - started
        state.step += 1
        state.losses = losses
        state.update_average(min(settings.ema, (1 + state.step) / (10 + state.step)))
        yield losses


def _one_step(training: Training, state: State, batches: Iterator[Any]) -> Losses:
    settings, accelerator = training.settings, training.accelerator
    totals = _in_memory(training, state.step, lambda: _accumulate(training, _parts(training, state.step), batches))
    norm = accelerator.clip_grad_norm_(training.student.parameters(), settings.gradient_clip)
    losses = {name: float(accelerator.reduce(value, "mean")) for name, value in totals.items()}
    watched = [*losses.values()] if settings.mixed_precision == "fp16" else [*losses.values(), float(norm)]
    if not all(map(math.isfinite, watched)):  # the scaler of fp16 skips steps of infinite gradients by itself
        raise _not_finite(state, losses)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return losses


def _check_compiled(training: Training, state: State) -> None:
    """Hold the gradients of this process's first images against those of the networks uncompiled."""
    samples = _parts(training, state.step)[0]

    def backward() -> None:  # only by torch: the scaler of fp16 finds its scale only later
        with training.accelerator.no_sync(training.student):
            _total(training, training.objective.load(samples))[0].backward()

    _in_memory(training, state.step, lambda: check_gradients(training.network, backward))


def _in_memory(training: Training, step: int, work: Callable[[], T]) -> T:
    """What ``work`` returns. Raises DtkError saying how many images would fit when memory runs out."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    raise _no_memory(training, step)  # outside of the handler, whose traceback holds what did not fit


def _parts(training: Training, step: int) -> list[range]:
    """The numbers of this process's samples of a step, a micro-batch each."""
    settings, accelerator = training.settings, training.accelerator
    first, end = step * settings.batch_size, (step + 1) * settings.batch_size
    mine = range(first + accelerator.process_index, end, accelerator.num_processes)
    size = settings.micro_batch_size or len(mine)
    return [mine[i : i + size] for i in range(0, len(mine), size)]


def _not_finite(state: State, losses: Losses) -> DtkError:
    saved = "none was saved yet" if state.saved is None else f"step {state.saved}, where the same command continues"
    return DtkError(
        f"The loss at step {state.step} is not finite.",
        found=", ".join(f"{name} {value}" for name, value in losses.items()),
        expected=f"finite losses and gradients; the last good checkpoint: {saved}",
        do="try a smaller --learning-rate, recover.mixed_precision=no, or look for the images of this step",
    )


def _accumulate(training: Training, parts: list[range], batches: Iterator[Any]) -> dict[str, torch.Tensor]:
    """Add up the gradients of this process's samples, a micro-batch at a time; returns its share of the losses."""
    totals: dict[str, torch.Tensor] = {}
    for part in parts:
        share = len(part) * training.accelerator.num_processes / training.settings.batch_size
        for name, value in _backward(training, next(batches), share, last=part is parts[-1]).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * share
    return totals


def _backward(training: Training, batch: Any, share: float, *, last: bool) -> dict[str, torch.Tensor]:
    """Add the gradients of some samples, weighted by their ``share`` of the process's batch; returns their losses."""
    accelerator = training.accelerator
    total, losses = _total(training, batch)
    if last:
        accelerator.backward(total * share)
    else:
        with accelerator.no_sync(training.student):
            accelerator.backward(total * share)
    return {"total": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}


def _total(training: Training, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of the losses of some samples, and each of them."""
    with training.accelerator.autocast():
        losses = training.objective(batch)
    return torch.stack([weight * losses[name] for name, weight in training.losses.items()]).sum(), losses


def _no_memory(training: Training, step: int) -> DtkError:
    """What to tell a user whose micro-batch did not fit; in a single process, what does fit is tried."""
    part = _parts(training, step)[0]

    def attempt(size: int) -> None:
        training.network.zero_grad(set_to_none=True)
        _backward(training, training.objective.load(part[:size]), share=1.0, last=True)

    single = training.accelerator.num_processes == 1
    return out_of_memory(step, len(part), largest_that_fits(attempt, len(part)) if single else None)
