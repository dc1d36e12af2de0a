"""Output distillation: mean squared error to what the dense model predicts (Hinton et al. 2015, for a regression)."""

from __future__ import annotations

import torch

from toolkit.recovery.losses.base import TrainingStep, squared_error


class DistillationLoss:
    """Squared error to the teacher's prediction at the same noisy image."""

    name = "distillation"
    description = "squared error to the dense model's prediction"
    needs_teacher = True
    needs_direction = needs_features = False

    def __call__(self, step: TrainingStep) -> torch.Tensor:
        return squared_error(step.of_student.prediction, step.of_teacher.prediction)


LOSS = DistillationLoss()
