"""The recover stage: train the pruned model, and publish the average of its weights as the run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from toolkit.core.files import value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.examples import Examples
from toolkit.diffusion.few_steps import taught_steps
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.save import save_model
from toolkit.models.schedulers import copy_scheduler, load_scheduler, save_scheduler
from toolkit.pipeline.model import decoder_inputs, publish_model
from toolkit.pipeline.training import train_up_to
from toolkit.recovery.held_out import stopping_curve
from toolkit.recovery.loop import Training
from toolkit.recovery.prepare import check, prepare
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.stage import prepare_stage
from toolkit.recovery.state import State
from toolkit.recovery.teaching import Stage, stages_of
from toolkit.recovery.tracking import stop_tracking


def recover(
    run: RunFolder,
    settings: RecoverSettings,
    dense: ModelFolder,
    train_images: Examples,
    *,
    held_out: Examples | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train RUN/prune/model up to ``settings.steps`` steps and write RUN/recover and RUN/model.

    An interrupted or shorter recovery of the same settings resumes from its last whole checkpoint; a damaged one is
    passed over and logged. With ``settings.sampling_steps`` the model is then taught to sample in so few, each stage
    of it a training of its own in RUN/recover/STAGE. ``held_out`` examples, which nothing is trained on, judge recovery
    at every checkpoint, in RUN/recover/held_out.json. Under a launcher every process trains on its share of each batch,
    and the main one writes. Raises DtkError if the data is too small, a loss is not finite or memory runs out,
    UsageError if the recovery has gone beyond ``settings.steps``.
    """
    pruned = find_model(run.path / "prune" / "model")
    inputs = {
        "pruned": pruned.sha256,
        "teacher": dense.sha256,
        "images": train_images.fingerprint,
    }
    request = Request("recover", settings.model_dump(), inputs | decoder_inputs(run))
    if run.is_current(request):
        return dict(run.require("recover", "dtk recover RUN")["result"])
    check(settings, train_images)
    folder = run.path / "recover"
    training, state = prepare(settings, dense, pruned, train_images, device)
    with training.accelerator.main_process_first():
        train_images.prepare(progress, mirrored=settings.flip)
    same = {name: value for name, value in request.settings.items() if name in IDENTITY}
    identity = value_sha256([same, dict(training.losses), inputs])
    train_up_to(training, state, folder, identity, progress, "recovering", held_out=held_out)
    result = {"steps": state.step, "losses": state.losses, "images_seen": state.step * settings.batch_size}
    if curve := stopping_curve(folder / "held_out.json"):
        result["held_out"] = curve
    seconds, stages, models = state.seconds, stages_of(settings), (dense, pruned)
    state, scheduler, taught_s = _teach(
        run, settings, models, train_images, identity, progress, stages, training, state
    )
    if scheduler is not None:
        result["teaching"] = _taught(settings, stages, scheduler) | {"losses": state.losses}
    if training.accelerator.is_main_process:
        _publish(run, dense, pruned, state, scheduler)
        facts = {"result": result, "processes": training.accelerator.num_processes}
        run.finish(request, ("model",), seconds=seconds + taught_s, device=device, facts=facts)
    stop_tracking(training.accelerator)
    training.accelerator.wait_for_everyone()
    return result


IDENTITY = (
    *("batch_size", "min_snr_gamma", "learning_rate", "schedule", "warmup_steps", "weight_decay"),
    *("gradient_clip", "ema", "flip", "condition_dropout", "mixed_precision", "seed"),
)
"""The settings that, with the losses' weights, make it the same training; how long it runs, how often it saves and what
changes memory or rounding only do not."""


TEACHING = (
    *("sampling_steps", "teaching", "teaching_rate", "teacher_steps", "teaching_guidance", "trajectories"),
    "prediction_type",
)
"""The same of teaching, beside what it starts from."""


def _teach(
    run: RunFolder,
    settings: RecoverSettings,
    models: tuple[ModelFolder, ModelFolder],
    images: Examples,
    identity: str,
    progress: Progress,
    stages: list[Stage],
    training: Training,
    state: State,
) -> tuple[State, Any, float]:
    """Go through the stages, each from where the one before ended; the last state, its scheduler, and the seconds.

    Without stages that is ``state`` itself, and no scheduler.
    """
    seconds, after, same, scheduler = 0.0, 0, {name: getattr(settings, name) for name in TEACHING}, None
    for number, stage in enumerate(stages):
        identity, after = value_sha256([identity, state.step, same, number]), after + state.step
        training, state, scheduler = prepare_stage(
            number, stages, settings, (training, state), models, images, run.path / "cache", progress
        )
        folder, work = run.path / "recover" / stage.name, f"teaching {stage.steps} steps"
        train_up_to(training, state, folder, identity, progress, work, after=after)
        seconds += state.seconds
    return state, scheduler, seconds


def _taught(settings: RecoverSettings, stages: list[Stage], scheduler: Any) -> dict[str, Any]:
    return {
        "method": settings.teaching,
        "sampling_steps": stages[-1].steps,
        "timesteps": scheduler.timesteps.tolist(),
        "teacher_steps": stages[0].teacher_steps,
        "guidance": settings.teaching_guidance,
        "prediction_type": scheduler.config.prediction_type,
        "steps": sum(stage.training for stage in stages),
    }


def _publish(run: RunFolder, dense: ModelFolder, pruned: ModelFolder, state: State, scheduler: Any) -> None:
    """Write the averaged weights as RUN/model, and how it is sampled if it was taught that.

    One that was taught before, and not now, has learned from the dense model again what that one predicts.
    """
    state.model.load_state_dict({**state.model.state_dict(), **state.average})
    model: Any = state.model
    model.to(memory_format=torch.contiguous_format)

    def write(folder: Path) -> None:
        save_model(pruned, model.eval(), folder)
        if scheduler is not None:
            save_scheduler(scheduler, folder)
        elif taught_steps(load_scheduler(pruned)):
            copy_scheduler(dense, folder)

    publish_model(run, write)
