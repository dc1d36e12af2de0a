"""One stage of teaching made ready: the student with its optimiser, its teacher, both schedulers and the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.core.progress import Progress
from toolkit.data.examples import Examples
from toolkit.diffusion.guidance import check_guidance
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.recovery.loop import Training
from toolkit.recovery.prepare import load_network, optimiser
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State
from toolkit.recovery.teaching import Lesson, Stage, method_of, schedulers


def prepare_stage(
    number: int,
    stages: list[Stage],
    settings: RecoverSettings,
    before: tuple[Training, State],
    models: tuple[ModelFolder, ModelFolder],
    images: Examples,
    cache: Path,
    progress: Progress,
) -> tuple[Training, State, Any]:
    """Stage ``number`` of ``stages``, its student starting from the averaged weights of ``before``; and its scheduler.

    ``models``: the dense and the pruned model's folders. The teacher's trajectories are kept in ``cache``.
    """
    accelerator, (dense, pruned), stage = before[0].accelerator, models, stages[number]
    device, of_stage = accelerator.device, stage.settings(settings)
    averaged = before[1].model.state_dict() | before[1].average
    student, teacher = (load_network(model, settings, device) for model in (pruned, pruned if number else dense))
    student.load_state_dict(averaged)
    if number:
        teacher.load_state_dict(averaged)
    average = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    wrapped, optimizer = accelerator.prepare(student, optimiser(student, of_stage))
    student_scheduler, teacher_scheduler = schedulers(load_scheduler(dense), stages, number, settings)
    conditioner = open_conditioner(dense, str(device))
    check_guidance(conditioner.conditioning, settings.teaching_guidance)
    lesson = Lesson(
        stage,
        wrapped,
        teacher.requires_grad_(False),
        student_scheduler,
        teacher_scheduler,
        images,
        conditioner,
        settings,
        dense.input_specs()["sample"].shape,
        cache,
        dense.sha256,
        device,
    )
    share = (accelerator.process_index, accelerator.num_processes)
    objective = method_of(settings).objective(lesson, share, accelerator.wait_for_everyone, progress)
    training = Training(accelerator, wrapped, student, objective, of_stage, {"landing": 1.0})
    return training, State(student, average, optimizer, accelerator.scaler), student_scheduler
