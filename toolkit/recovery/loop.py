"""The training loop. ``accelerate`` runs it: one process or several, half precision if requested."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from accelerate import Accelerator
from diffusers import SchedulerMixin
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.diffusion.objective import min_snr_weights, noisy, target
from toolkit.models.conditioners import Conditioner
from toolkit.recovery.batches import Batch, Batches
from toolkit.recovery.compiled import check_gradients
from toolkit.recovery.losses.base import Loss, TrainingStep, loss_called
from toolkit.recovery.memory import is_out_of_memory, largest_that_fits, out_of_memory
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State

Losses = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """What does not change while training: the accelerator, the networks, the data, its conditions and the settings.

    ``student`` is what is called, ``network`` the module inside it; they differ if processes share the work.
    ``losses``: the weight of each.
    ``kept``: the features that are compared, and which of the teacher's channels the student has; empty if no loss
    needs them.
    """

    accelerator: Accelerator
    student: nn.Module
    network: nn.Module
    teacher: nn.Module | None
    scheduler: SchedulerMixin
    batches: Batches
    conditioner: Conditioner
    settings: RecoverSettings
    losses: Mapping[str, float]
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def terms(self) -> dict[str, Loss]:
        """The losses by name."""
        return {name: loss_called(name) for name in self.losses}


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
    while state.step < settings.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        started = time.monotonic()
        losses = _one_step(training, state)
        state.seconds += time.monotonic() - started
        state.step += 1
        state.losses = losses
        state.update_average(min(settings.ema, (1 + state.step) / (10 + state.step)))
        yield losses


def _one_step(training: Training, state: State) -> Losses:
    settings, accelerator = training.settings, training.accelerator
    mine = _mine(training, state.step)
    totals = _in_memory(training, mine, state.step, lambda: _accumulate(training, mine))
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
    mine = _mine(training, state.step)
    samples = mine[: training.settings.micro_batch_size or len(mine)]

    def backward() -> None:  # only by torch: the scaler of fp16 finds its scale only later
        with training.accelerator.no_sync(training.student):
            _total(training, samples)[0].backward()

    _in_memory(training, mine, state.step, lambda: check_gradients(training.network, backward))


def _in_memory(training: Training, mine: range, step: int, work: Callable[[], T]) -> T:
    """What ``work`` returns. Raises DtkError saying how many images would fit when memory runs out."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    raise _no_memory(training, mine, step)  # outside of the handler, whose traceback holds what did not fit


def _mine(training: Training, step: int) -> range:
    """The numbers of this process's samples of a step."""
    size, accelerator = training.settings.batch_size, training.accelerator
    return range(step * size + accelerator.process_index, (step + 1) * size, accelerator.num_processes)


def _not_finite(state: State, losses: Losses) -> DtkError:
    saved = "none was saved yet" if state.saved is None else f"step {state.saved}, where the same command continues"
    return DtkError(
        f"The loss at step {state.step} is not finite.",
        found=", ".join(f"{name} {value}" for name, value in losses.items()),
        expected=f"finite losses and gradients; the last good checkpoint: {saved}",
        do="try a smaller --learning-rate, recover.mixed_precision=no, or look for the images of this step",
    )


def _accumulate(training: Training, mine: range) -> dict[str, torch.Tensor]:
    """Add up the gradients of this process's samples, a micro-batch at a time; returns its share of the losses."""
    accelerator, settings = training.accelerator, training.settings
    size = settings.micro_batch_size or len(mine)
    parts = [mine[i : i + size] for i in range(0, len(mine), size)]
    totals: dict[str, torch.Tensor] = {}
    for part in parts:
        share = len(part) * accelerator.num_processes / settings.batch_size
        for name, value in _backward(training, part, share, last=part is parts[-1]).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * share
    return totals


def _backward(training: Training, samples: range, share: float, *, last: bool) -> dict[str, torch.Tensor]:
    """Add the gradients of some samples, weighted by their ``share`` of the process's batch; returns their losses."""
    accelerator = training.accelerator
    total, losses = _total(training, samples)
    if last:
        accelerator.backward(total * share)
    else:
        with accelerator.no_sync(training.student):
            accelerator.backward(total * share)
    return {"total": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}


def _total(training: Training, samples: range) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of the losses of some samples, and each of them."""
    with training.accelerator.autocast():
        losses = _losses(training, training.batches(samples, training.accelerator.device))
    return torch.stack([weight * losses[name] for name, weight in training.losses.items()]).sum(), losses


def _no_memory(training: Training, mine: range, step: int) -> DtkError:
    """What to tell a user whose micro-batch did not fit; in a single process, what does fit is tried."""
    requested = min(training.settings.micro_batch_size or len(mine), len(mine))

    def attempt(size: int) -> None:
        training.network.zero_grad(set_to_none=True)
        _backward(training, mine[:size], share=1.0, last=True)

    single = training.accelerator.num_processes == 1
    return out_of_memory(step, requested, largest_that_fits(attempt, requested) if single else None)


def _losses(training: Training, batch: Batch) -> dict[str, torch.Tensor]:
    """The mean of each loss over a batch, its images weighted by their timesteps if the settings say so."""
    scheduler, settings = training.scheduler, training.settings
    step = TrainingStep(
        training.student,
        training.network,
        training.teacher,
        noisy(scheduler, batch.images, batch.noise, batch.t),
        batch.t,
        target(scheduler, batch.images, batch.noise, batch.t),
        direction=batch.direction,
        kept=training.kept,
        conditioning=training.conditioner(batch.conditions),
    )
    losses = {name: loss(step) for name, loss in training.terms.items()}
    if settings.min_snr_gamma is not None:
        weights = min_snr_weights(scheduler, batch.t, settings.min_snr_gamma)
        losses = {name: weights * loss for name, loss in losses.items()}
    return {name: loss.mean() for name, loss in losses.items()}
