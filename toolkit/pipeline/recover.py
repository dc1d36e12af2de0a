"""The recover stage: train the pruned model, and publish the average of its weights as the run's model."""

from __future__ import annotations

import logging
from typing import Any

import torch

from toolkit.core.files import replacing, value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.examples import Examples
from toolkit.models.folder import ModelFolder, find_model, save_model
from toolkit.recovery.log import Log
from toolkit.recovery.loop import Training, learning_rate, train
from toolkit.recovery.prepare import check, prepare
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State, restore, save_checkpoint
from toolkit.recovery.tracking import stop_tracking

logger = logging.getLogger(__name__)


def recover(
    run: RunFolder,
    settings: RecoverSettings,
    dense: ModelFolder,
    train_images: Examples,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train RUN/prune/model up to ``settings.steps`` steps and write RUN/recover and RUN/model.

    An interrupted or shorter recovery of the same settings resumes from its last whole checkpoint; a damaged one is
    passed over and logged. Under a launcher every process trains on its
    share of each batch, and the main one writes. Raises DtkError if the data is too small, a loss is not finite or
    memory runs out, UsageError if the recovery has gone beyond ``settings.steps``.
    """
    pruned = find_model(run.path / "prune" / "model")
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
    training, state = prepare(settings, dense, pruned, train_images, device)
    with training.accelerator.main_process_first():
        train_images.prepare(progress, mirrored=settings.flip)
    same = {name: value for name, value in request.settings.items() if name in IDENTITY}
    identity = value_sha256([same, dict(training.losses), inputs])
    with training.accelerator.main_process_first():  # it removes what is damaged; the others find what is left
        for passed in restore(folder / "checkpoints", state, identity, settings.steps):
            logger.warning("Passed over the checkpoint %s.", passed)
    _train(training, state, run, identity, progress)
    result = {"steps": state.step, "losses": state.losses, "images_seen": state.step * settings.batch_size}
    if training.accelerator.is_main_process:
        _publish(run, pruned, state)
        facts = {"result": result, "processes": training.accelerator.num_processes}
        run.finish(request, ("model",), seconds=state.seconds, device=device, facts=facts)
    stop_tracking(training.accelerator)
    training.accelerator.wait_for_everyone()
    return result


IDENTITY = (
    *("batch_size", "min_snr_gamma", "learning_rate", "schedule", "warmup_steps", "weight_decay"),
    *("gradient_clip", "ema", "flip", "condition_dropout", "mixed_precision", "seed"),
)
"""The settings that, with the losses' weights, make it the same training; how long it runs, how often it saves and what
changes memory or rounding only do not."""


def _train(training: Training, state: State, run: RunFolder, identity: str, progress: Progress) -> None:
    settings, main = training.settings, training.accelerator.is_main_process
    folder = run.path / "recover"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    track = training.accelerator.log
    log = Log(folder / "log.jsonl", settings.log_every, state.step, track) if main else None
    for losses in train(training, state):
        if log:
            log(state.step, settings.batch_size, losses, learning_rate(settings, state.step - 1))
        if main and (state.step % settings.checkpoint_every == 0 or state.step == settings.steps):
            save_checkpoint(folder / "checkpoints", state, identity, settings.keep_checkpoints)
        progress("recovering", state.step, settings.steps)


def _publish(run: RunFolder, pruned: ModelFolder, state: State) -> None:
    """Write the averaged weights as RUN/model."""
    state.model.load_state_dict({**state.model.state_dict(), **state.average})
    model: Any = state.model
    model.to(memory_format=torch.contiguous_format)
    with replacing(run.path / "model") as folder:
        save_model(pruned, model.eval(), folder)
