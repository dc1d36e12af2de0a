"""Trajectory distillation: the student learns to land on the dense model's trajectory, in the end from its own states.

SFD (Zhou et al. 2024, arXiv 2409.19681): the student starts from the same noise as a trajectory of the dense model and
takes its few steps one after the other, each from where its last one landed. Each landing is compared with the
trajectory's point at that timestep, so that a step also learns to mend what the steps before it left. At first each
step starts from the dense model's state instead (teacher forcing, Williams and Zipser 1989): what a network lands on
that has learned nothing yet is no state to learn from (decision 15).

The last step starts at little noise: what a small network leaves of it there does not show (decision 10). The first
starts at noise and takes what is left of the path. The image is compared as it is shown, clipped: what should be black
may become blacker, which a network learns, while black to a thousandth it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress
from toolkit.data.conditions import Condition
from toolkit.diffusion.few_steps import landing_weights
from toolkit.recovery.ahead import to_device
from toolkit.recovery.batches import order
from toolkit.recovery.losses.base import squared_error
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.teaching import Lesson, Stage
from toolkit.recovery.trajectories import SHARD, Trajectories

FEWEST = 10  # steps of the dense model (decision 10)
FORCED = 2 / 3  # the share of the training with teacher forcing (decision 15)


@dataclass(frozen=True)
class Points:
    """Points of trajectories (B, steps + 1, C, H, W), the condition of each, and whether the dense model's states lead.

    If ``forced``, each step starts from the trajectory, not from the student's own state.
    """

    points: torch.Tensor
    conditions: list[Condition]
    forced: bool


class Landings:
    """The error of every landing, each step taken from the trajectory in the first part, then from the last landing."""

    def __init__(self, lesson: Lesson, trajectories: Trajectories) -> None:
        self.lesson, self.trajectories = lesson, trajectories
        self.weights = landing_weights(lesson.scheduler).tolist()
        config = lesson.teacher_scheduler.config
        self.shown: float | None = config.clip_sample_range if config.clip_sample else None  # a latent has no bounds
        self.order = order(trajectories.count, lesson.settings.seed, "teaching order")
        training = lesson.stage.settings(lesson.settings)
        self.forced = round(FORCED * training.steps) * training.batch_size

    def load(self, samples: range) -> Points:
        numbers = [self.order(sample) for sample in samples]
        points = to_device(torch.from_numpy(self.trajectories.read(numbers)), self.lesson.device)
        return Points(points, self.trajectories.conditions(numbers), samples[0] < self.forced)

    def __call__(self, batch: Points) -> dict[str, torch.Tensor]:
        scheduler, x, losses = self.lesson.scheduler, batch.points[:, 0], []
        conditioning = self.lesson.conditioner(batch.conditions)
        timesteps = scheduler.timesteps.tolist()
        known = self._predictions(batch.points[:, :-1], timesteps, conditioning) if batch.forced else None
        for number, timestep in enumerate(timesteps):
            prediction = self._predictions(x[:, None], [timestep], conditioning)[0] if known is None else known[number]
            landed = scheduler.step(prediction, timestep, x).prev_sample
            wanted = batch.points[:, number + 1]
            x = wanted if batch.forced else landed.detach()
            if self.shown and number + 1 == len(self.weights):
                landed, wanted = (_shown(image, self.shown) for image in (landed, wanted))
            losses.append(self.weights[number] * squared_error(landed, wanted))
        return {"landing": torch.stack(losses).mean()}

    def _predictions(
        self, starts: torch.Tensor, timesteps: list[int], conditioning: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The predictions (steps, B, C, H, W) at starts (B, steps, C, H, W), one per timestep, in a single call."""
        count, steps = starts.shape[:2]
        t = torch.cat([torch.full((count,), timestep, device=starts.device) for timestep in timesteps])
        repeated = {name: torch.cat([tensor] * steps) for name, tensor in conditioning.items()}
        x = starts.transpose(0, 1).flatten(0, 1)
        return self.lesson.prediction(self.lesson.student, x, t, **repeated).unflatten(0, (steps, count))


def _shown(image: torch.Tensor, bound: float) -> torch.Tensor:
    """The image clipped, with the gradient of an image that is not: what is wrong beyond the bounds is still mended."""
    return image + (image.clamp(-bound, bound) - image).detach()


class TrajectoryDistillation:
    """Landings on the dense model's trajectories, from the student's own states."""

    name = "trajectory"
    description = "each step lands on the dense model's trajectory, from the student's own state (SFD)"

    def stages(self, settings: RecoverSettings) -> list[Stage]:
        steps = settings.sampling_steps or 0
        teacher_steps = settings.teacher_steps or max(FEWEST, 5 * steps // 2)
        if teacher_steps < steps + 2:
            raise UsageError(
                "The teacher's steps are too few to lead the student's.",
                found=f"{teacher_steps} and {steps} steps",
                do=f"set recover.teacher_steps to at least {steps + 2}, such as {5 * steps}",
            )
        return [Stage(steps, teacher_steps, settings.teaching_steps, passes=steps, along_path=True)]

    def objective(
        self, lesson: Lesson, share: tuple[int, int], wait: Callable[[], None], progress: Progress
    ) -> Landings:
        settings, conditioner = lesson.settings, lesson.conditioner
        trajectories = Trajectories(
            lesson.of_teacher,
            lesson.teacher_scheduler,
            frozenset(lesson.scheduler.timesteps[1:].tolist()),
            lesson.shape,
            settings.trajectories,
            settings.seed,
            lesson.images,
            conditioner.conditioning.kind,
            lesson.dropout,
            conditioner,
            settings.teaching_guidance,
            lesson.cache / "trajectories" / lesson.key,
            lesson.device,
            settings.micro_batch_size or SHARD,
        )
        trajectories.prepare(share, progress)
        wait()
        return Landings(lesson, trajectories)


METHOD = TrajectoryDistillation()
