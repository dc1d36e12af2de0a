"""The accelerator, both networks, the optimiser and the batches of a recovery, before its first step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from toolkit.core import processes
from toolkit.core.errors import DtkError, UsageError
from toolkit.data.examples import Examples
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.pruning.plan import read_plan
from toolkit.recovery.batches import Batches
from toolkit.recovery.loop import Training
from toolkit.recovery.losses.base import loss_called
from toolkit.recovery.mix import default_mix, kept_features
from toolkit.recovery.objective import Recovery
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State
from toolkit.recovery.teaching import stages_of
from toolkit.recovery.tracking import check_tracker, start_tracking
from toolkit.runners.base import unavailable


def check(settings: RecoverSettings, images: Examples) -> None:
    """Refuse what cannot be trained; before pruning, too, if recovery follows.

    That is: losses that are not known or cannot be compiled, steps that cannot be taught, data smaller than a batch,
    and trackers.
    """
    losses = [loss_called(name) for name in settings.losses or ()]
    stages_of(settings)
    eager = [loss.name for loss in losses if loss.needs_direction or loss.needs_features]
    if settings.compile and eager:
        raise UsageError(
            "These losses look inside the networks, which a compiled one does not allow.",
            found=f"recover.compile with {', '.join(eager)}",
            do=f"set recover.compile=false, or leave {' and '.join(eager)} out of recover.losses",
        )
    if len(images) < settings.batch_size:
        raise DtkError(
            f"{images.source} has fewer images than a batch.",
            found=f"{len(images)} training images",
            expected=f"at least {settings.batch_size}, the batch size",
            do="give more images, or a smaller --batch-size",
        )
    check_tracker(settings.track)


def prepare(
    settings: RecoverSettings, dense: ModelFolder, pruned: ModelFolder, images: Examples, device: str
) -> tuple[Training, State]:
    """Load both models and make all that trains the pruned one."""
    accelerator = make_accelerator(settings, device, pruned.root.parents[1] / "recover")
    start_tracking(accelerator, settings)
    scheduler = load_scheduler(dense)
    # eval mode: dropout would draw from torch's global generator, and a resumed run would differ
    student = load_network(pruned, settings, accelerator.device)
    plan = partial(read_plan, pruned.root.parent / "plan.json")
    mix = settings.losses or default_mix(plan(), student, compiled=settings.compile)
    losses = [loss_called(name) for name in mix]
    teacher, kept = None, {}
    if any(loss.needs_teacher for loss in losses):
        teacher = load_network(dense, settings, accelerator.device).requires_grad_(False)
    if any(loss.needs_features for loss in losses):
        kept = kept_features(plan(), student, accelerator.device)
    average = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    wrapped, prepared = accelerator.prepare(student, optimiser(student, settings))
    directions = any(loss.needs_direction for loss in losses)
    timesteps = timesteps_and_kind(scheduler)[0]
    conditioner = open_conditioner(dense, str(accelerator.device))
    conditioning = conditioner.conditioning
    dropout = settings.condition_dropout if conditioning.has_null else 0.0
    batches = Batches(
        images,
        timesteps,
        settings.seed,
        settings.flip,
        directions=directions,
        kind=conditioning.kind,
        dropout=dropout,
    )
    objective = Recovery(
        wrapped,
        student,
        teacher,
        scheduler,
        batches,
        conditioner,
        mix,
        kept,
        settings.min_snr_gamma,
        accelerator.device,
    )
    training = Training(accelerator, wrapped, student, objective, settings, mix)
    return training, State(student, average, prepared, accelerator.scaler)


def optimiser(network: nn.Module, settings: RecoverSettings) -> torch.optim.AdamW:
    """AdamW over all parameters, its update one kernel on a GPU."""
    on_gpu = all(parameter.is_cuda for parameter in network.parameters())
    rate, decay = settings.learning_rate, settings.weight_decay
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, foreach=not on_gpu, fused=on_gpu)


def make_accelerator(settings: RecoverSettings, device: str, folder: Path) -> Accelerator:
    """Refuses precisions that the device cannot train in, and more processes than images in a batch."""
    if settings.mixed_precision == "fp16" and device == "cpu":
        raise UsageError(
            "A CPU does not train in fp16.", found="recover.mixed_precision=fp16", expected="bf16, or no on a CPU"
        )
    if settings.compile and (reason := unavailable("compile", device)):
        raise UsageError("The networks cannot be compiled here.", found=reason, do="set recover.compile=false")
    if processes.count() == 1:  # accelerate would hold a second recovery of this process to the first one's precision
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.startswith("cuda:"):  # accelerate takes the current one, when it is not told which by its launcher
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision=settings.mixed_precision, log_with=settings.track, project_dir=folder
    )
    passes = max((stage.passes for stage in stages_of(settings)), default=1)
    if accelerator.num_processes > settings.batch_size // passes:
        counted = f", {passes} of which are one trajectory" if passes > 1 else ""
        raise DtkError(
            "There are more processes than images in a batch.",
            found=f"{accelerator.num_processes} processes, batch size {settings.batch_size}{counted}",
            do="start fewer processes, or give a larger --batch-size",
        )
    return accelerator


def load_network(folder: ModelFolder, settings: RecoverSettings, device: torch.device) -> nn.Module:
    """The denoiser as training calls it, in eval mode."""
    network: Any = load_denoiser(folder).to(device).eval()
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)
    if settings.compile:
        network.compile()
    return network
