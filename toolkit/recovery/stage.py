"""The recover stage: train the pruned model, and publish the average of its weights as the run's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from toolkit import models
from toolkit.conditioner import open_conditioner
from toolkit.data.examples import Examples
from toolkit.errors import DtkError
from toolkit.files import replacing, value_sha256
from toolkit.objective import timesteps_and_kind
from toolkit.progress import Progress, silent
from toolkit.recovery import catalog
from toolkit.recovery.batches import Batches
from toolkit.recovery.config import RecoverSettings
from toolkit.recovery.kept import kept_features
from toolkit.recovery.loop import Log, Training, learning_rate, train
from toolkit.recovery.losses.base import Loss
from toolkit.recovery.state import State, restore, save_checkpoint
from toolkit.run_folder import Request, Run


def recover(
    run: Run,
    settings: RecoverSettings,
    dense: models.ModelFolder,
    train_images: Examples,
    *,
    device: str = "cpu",
    progress: Progress = silent,
    notice: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Train RUN/prune/model up to ``settings.steps`` steps and write RUN/recover and RUN/model.

    An interrupted or shorter recovery of the same settings is taken up at its last whole checkpoint. ``notice`` is told
    what a user should know (a damaged checkpoint that was passed over). Raises DtkError where the data is too small or
    a loss is not finite.
    """
    pruned = models.find(run.path / "prune" / "model")
    inputs = {
        "pruned": pruned.sha256,
        "teacher": dense.sha256,
        "images": train_images.fingerprint,
    }
    request = Request("recover", settings.model_dump(), inputs)
    if run.is_current(request):
        return dict(run.require("recover", "dtk recover RUN")["result"])
    check(settings, train_images)
    folder = run.path / "recover"
    training, state = _prepare(settings, dense, pruned, train_images, device)
    with training.accelerator.main_process_first():
        train_images.prepare(progress, mirrored=settings.flip)
    identity = value_sha256([{k: v for k, v in request.settings.items() if k in IDENTITY}, inputs])
    for passed in restore(folder / "checkpoints", state, identity, settings.steps):
        notice(f"Passed over the checkpoint {passed}.")
    _train(training, state, run, identity, progress)
    result = {"steps": state.step, "losses": state.losses, "images_seen": state.step * settings.batch_size}
    if training.accelerator.is_main_process:
        _publish(run, pruned, state)
        run.finish(request, ("model",), seconds=state.seconds, device=device, facts={"result": result})
    return result


IDENTITY = (
    *("batch_size", "losses", "min_snr_gamma", "learning_rate", "schedule", "warmup_steps", "weight_decay"),
    *("gradient_clip", "ema", "flip", "condition_dropout", "mixed_precision", "seed"),
)
"""The settings that make it the same training; how far it goes and how often it saves do not."""


def check(settings: RecoverSettings, images: Examples) -> None:
    """Refuse losses that are not known and data smaller than a batch; before pruning, too, where recovery follows."""
    _chosen(settings)
    if len(images) < settings.batch_size:
        raise DtkError(
            f"{images.source} has fewer images than a batch.",
            found=f"{len(images)} training images",
            expected=f"at least {settings.batch_size}, the batch size",
            do="give more images, or a smaller --batch-size",
        )


def _chosen(settings: RecoverSettings) -> list[Loss]:
    return [catalog.loss(name) for name in settings.losses]


def _prepare(
    settings: RecoverSettings, dense: models.ModelFolder, pruned: models.ModelFolder, images: Examples, device: str
) -> tuple[Training, State]:
    losses = _chosen(settings)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=settings.mixed_precision)
    scheduler = models.load_scheduler(dense)
    # eval mode: dropout would draw from torch's global generator, and a resumed run would differ
    student = models.load_denoiser(pruned).to(accelerator.device).eval()
    teacher, kept = None, {}
    if any(loss.needs_teacher for loss in losses):
        teacher = models.load_denoiser(dense).to(accelerator.device).requires_grad_(False)
    if any(loss.needs_features for loss in losses):
        kept = kept_features(pruned.root.parent / "plan.json", student, accelerator.device)
    average = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    wrapped, prepared = accelerator.prepare(student, optimizer)
    directions = any(loss.needs_direction for loss in losses)
    timesteps = timesteps_and_kind(scheduler)[0]
    conditioner = open_conditioner(dense, str(accelerator.device))
    found = conditioner.conditioning
    dropout = settings.condition_dropout if found.has_null else 0.0
    batches = Batches(
        images,
        timesteps,
        settings.seed,
        settings.flip,
        directions=directions,
        kind=found.kind,
        dropout=dropout,
    )
    training = Training(accelerator, wrapped, teacher, scheduler, batches, conditioner, settings, kept)
    return training, State(student, average, prepared)


def _train(training: Training, state: State, run: Run, identity: str, progress: Progress) -> None:
    settings, main = training.settings, training.accelerator.is_main_process
    folder = run.path / "recover"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    log = Log(folder / "log.jsonl", settings.log_every, state.step) if main else None
    for losses in train(training, state):
        if log:
            log(state.step, settings.batch_size, losses, learning_rate(settings, state.step - 1))
        if main and (state.step % settings.checkpoint_every == 0 or state.step == settings.steps):
            save_checkpoint(folder / "checkpoints", state, identity, settings.keep_checkpoints)
        progress("recovering", state.step, settings.steps)


def _publish(run: Run, pruned: models.ModelFolder, state: State) -> None:
    """Write the averaged weights as RUN/model."""
    state.model.load_state_dict({**state.model.state_dict(), **state.average})
    with replacing(run.path / "model") as folder:
        models.save(pruned, state.model.eval(), folder)
