"""Teaching a student to sample in few steps: what every method is given, and the stages it goes through.

A stage trains the student to land, with each of its ``steps`` steps, where its teacher lands with several. The first
stage's teacher is the dense model, each later one's is the student of the stage before. The result is an ordinary
model whose scheduler says how it is sampled (toolkit.diffusion.few_steps).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import toolkit.recovery
from toolkit.adapters.inputs import keywords
from toolkit.core.errors import UsageError
from toolkit.core.files import value_sha256
from toolkit.core.progress import Progress
from toolkit.core.registry import entries, entry
from toolkit.data.examples import Examples
from toolkit.diffusion.few_steps import few_step_scheduler, landing_weights, path_scheduler, solver_along
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.diffusion.path import landings_and_path
from toolkit.models.conditioners import Conditioner
from toolkit.recovery.objective import Objective
from toolkit.recovery.settings import RecoverSettings


@dataclass(frozen=True)
class Stage:
    """The student learns ``steps`` steps from a teacher that takes ``teacher_steps``, in ``training`` training steps.

    A sample of the batch costs ``passes`` through the student, and counts as so many images. If ``along_path``, the
    timesteps are those of toolkit.diffusion.path and the dense model takes them by DPM-Solver++; else trailing ones.
    """

    steps: int
    teacher_steps: int
    training: int
    passes: int = 1
    along_path: bool = False

    @property
    def name(self) -> str:
        return f"{self.steps}-of-{self.teacher_steps}"

    def settings(self, settings: RecoverSettings) -> RecoverSettings:
        """Those of the training loop in this stage."""
        micro = settings.micro_batch_size and max(1, settings.micro_batch_size // self.passes)
        changed = {"steps": self.training, "batch_size": settings.batch_size // self.passes, "micro_batch_size": micro}
        return settings.model_copy(update=changed | {"learning_rate": settings.teaching_rate})


@dataclass(frozen=True)
class Lesson:
    """A stage's networks and data. ``student`` is what is called; both schedulers are set to their steps."""

    stage: Stage
    student: nn.Module
    teacher: nn.Module
    scheduler: Any
    teacher_scheduler: Any
    images: Examples
    conditioner: Conditioner
    settings: RecoverSettings
    shape: tuple[int, ...]
    cache: Path
    teacher_sha256: str
    device: torch.device

    def prediction(self, network: nn.Module, x: torch.Tensor, t: torch.Tensor, **conditioning: Any) -> torch.Tensor:
        """What ``network`` predicts at x (B, C, H, W) and t (B,), in float32, a learned variance left out."""
        predicted: torch.Tensor = network(x, t, return_dict=False, **keywords(conditioning))[0]
        return predicted[:, : self.shape[0]].float()

    def of_teacher(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """The teacher's prediction."""
        return self.prediction(self.teacher, sample, timestep, **conditioning)

    @property
    def dropout(self) -> float:
        """The share of samples with the null condition, so that guidance still works if none is folded in."""
        has_null = self.conditioner.conditioning.has_null and self.settings.teaching_guidance == 1
        return self.settings.condition_dropout if has_null else 0.0

    @property
    def key(self) -> str:
        """Names what the dense model does in this stage."""
        settings, kind = self.settings, self.conditioner.conditioning.kind
        of_images = self.images.fingerprint if kind != "none" else ""
        paths = [self.scheduler.timesteps.tolist(), self.teacher_scheduler.timesteps.tolist()]
        numbers = [settings.seed, "DPM-Solver++", *paths, settings.teaching_guidance, self.dropout]
        return value_sha256([self.teacher_sha256, of_images, self.device.type, *numbers])[:16]


class Method(Protocol):
    """A way to teach."""

    name: str
    description: str

    def stages(self, settings: RecoverSettings) -> list[Stage]:
        """The stages in order; the last one's ``steps`` are those requested. Raises UsageError for what cannot be."""
        ...

    def objective(
        self, lesson: Lesson, share: tuple[int, int], wait: Callable[[], None], progress: Progress
    ) -> Objective[Any]:
        """What a stage minimises, with the one loss "landing"; process i of n, ``share`` (i, n), prepares its part."""
        ...


def known_methods() -> dict[str, Method]:
    """Every method, by name."""
    return entries(toolkit.recovery, "METHOD", Method)


def stages_of(settings: RecoverSettings) -> list[Stage]:
    """The stages that the settings lead to; none without ``sampling_steps``. Raises UsageError for what cannot be."""
    if settings.sampling_steps is None:
        return []
    stages = method_of(settings).stages(settings)
    if settings.batch_size < stages[0].passes:
        raise UsageError(
            "A batch has fewer images than the model shall take steps.",
            found=f"batch size {settings.batch_size}, {settings.sampling_steps} steps",
            do="give a larger --batch-size: each trajectory counts as many images as it has steps",
        )
    return stages


def method_of(settings: RecoverSettings) -> Method:
    """The method the settings name; an unknown one is refused with the list."""
    method: Method = entry(known_methods(), "method of teaching", settings.teaching)
    return method


def schedulers(scheduler: Any, stages: list[Stage], number: int, settings: RecoverSettings) -> tuple[Any, Any]:
    """The student's and the teacher's scheduler of stage ``number``, each set to its steps.

    Raises UsageError if the student's timesteps are not among the teacher's, or if no prediction lands it anywhere.
    """
    stage, kind = stages[number], settings.prediction_type or timesteps_and_kind(scheduler)[1]
    guidance = settings.teaching_guidance
    if stage.along_path:
        landings, path = landings_and_path(scheduler, stage.steps, stage.teacher_steps)
        return few_step_scheduler(scheduler, stage.steps, kind, landings, guidance), solver_along(scheduler, path)
    many = stage.teacher_steps
    teacher = few_step_scheduler(scheduler, many, kind) if number else path_scheduler(scheduler, many)
    student = few_step_scheduler(scheduler, stage.steps, kind, guidance=guidance)
    if not landing_weights(student).isfinite().all():
        raise UsageError(
            "Where nothing is left of the image, a step that predicts noise lands nowhere.",
            found=f"prediction type {kind} at timestep {int(student.timesteps[0])}",
            do="set recover.prediction_type=v_prediction",
        )
    if not set(student.timesteps.tolist()) <= set(teacher.timesteps.tolist()):
        raise UsageError(
            f"{stage.steps} steps are not part of {many}.",
            found=f"timesteps {student.timesteps.tolist()} and {teacher.timesteps.tolist()}",
            do="give recover.teacher_steps that the scheduler's training timesteps can be divided by",
        )
    return student, teacher
