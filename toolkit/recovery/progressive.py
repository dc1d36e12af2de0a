"""Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512): halve the steps, again and again.

In each stage one step of the student learns to land where two of its teacher do, on noisy images of the data
(algorithm 2). The teacher of the first stage is the dense model, later ones are the student of the stage before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress
from toolkit.diffusion.few_steps import landing_weights, step_rows, taught_steps
from toolkit.diffusion.guidance import guided
from toolkit.diffusion.objective import noisy
from toolkit.recovery.batches import Batch, Batches
from toolkit.recovery.losses.base import squared_error
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.teaching import Lesson, Stage

FEWEST = 16  # steps that the dense model starts from, if the settings do not say


class Halves:
    """The error of one step where the teacher takes two, on noisy images; ``guidance`` is the teacher's."""

    def __init__(self, lesson: Lesson, guidance: float) -> None:
        self.lesson, settings = lesson, lesson.settings
        self.device, conditioning = lesson.device, lesson.conditioner.conditioning
        self.weights = landing_weights(lesson.scheduler).to(self.device)
        self.first, self.second = (lesson.teacher_scheduler.timesteps[part::2].to(self.device) for part in (0, 1))
        numbers, seed, flip = lesson.stage.steps, settings.seed, settings.flip
        self.batches = Batches(lesson.images, numbers, seed, flip, kind=conditioning.kind, dropout=lesson.dropout)
        null = lesson.conditioner([None]) if guidance != 1 else {}
        self.teacher = guided(lesson.of_teacher, null, guidance)

    def load(self, samples: range) -> Batch:
        """Noisy images; ``t`` is the number of the student's step."""
        return self.batches(samples, self.device)

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        lesson, conditioning = self.lesson, self.lesson.conditioner(batch.conditions)
        t = self.first[batch.t]
        x = noisy(lesson.scheduler, batch.images, batch.noise, t)
        with torch.no_grad():
            wanted = x
            for of_teacher in (t, self.second[batch.t]):
                prediction = self.teacher(wanted, of_teacher, **conditioning)
                wanted = step_rows(lesson.teacher_scheduler, prediction, of_teacher, wanted)
        landed = step_rows(lesson.scheduler, lesson.prediction(lesson.student, x, t, **conditioning), t, x)
        return {"landing": (self.weights[batch.t] * squared_error(landed, wanted)).mean()}


class ProgressiveDistillation:
    """One step learns two, in stages that halve the steps."""

    name = "progressive"
    description = "one step lands where two did, in stages that halve the steps, on noisy images (Salimans and Ho)"

    def stages(self, settings: RecoverSettings) -> list[Stage]:
        steps = settings.sampling_steps or 0
        most = settings.teacher_steps or max(FEWEST, 2 * steps)
        counts = [steps]
        while counts[0] < most:
            counts.insert(0, 2 * counts[0])
        if settings.teacher_steps not in (None, counts[0]) or len(counts) == 1:
            raise UsageError(
                "The teacher's steps do not halve down to the student's.",
                found=f"{most} and {steps} steps",
                do=f"set recover.teacher_steps to {steps} times a power of two, such as {4 * steps}",
            )
        share, rest = divmod(settings.teaching_steps, len(counts) - 1)
        shares = [share] * (len(counts) - 2) + [share + rest]
        return [Stage(few, many, n) for many, few, n in zip(counts, counts[1:], shares, strict=False) if n]

    def objective(self, lesson: Lesson, share: tuple[int, int], wait: Callable[[], None], progress: Progress) -> Halves:
        folded_in = taught_steps(lesson.teacher_scheduler)  # by the stage before
        return Halves(lesson, 1.0 if folded_in else lesson.settings.teaching_guidance)


METHOD = ProgressiveDistillation()
