"""The diffusion objective itself: mean squared error to the target (Ho et al. 2020, equation 14)."""

from __future__ import annotations

import torch

from toolkit.diffusion.objective import predicted
from toolkit.recovery.losses.base import TrainingStep, squared_error


class NoiseLoss:
    """Squared error to the scheduler's target (epsilon, v or the image)."""

    name = "noise"
    description = "squared error to the training target: noise, velocity or image, as the scheduler says"
    needs_teacher = needs_direction = needs_features = False

    def __call__(self, step: TrainingStep) -> torch.Tensor:
        return squared_error(predicted(step.of_student.prediction, step.target.shape[1]), step.target)


LOSS = NoiseLoss()
