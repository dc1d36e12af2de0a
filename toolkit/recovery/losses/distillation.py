"""Output distillation: mean squared error to what the dense model predicts (Hinton et al. 2015, for a regression)."""

from __future__ import annotations

import torch
from torch.nn.functional import mse_loss

from toolkit.recovery.losses.base import Step


class DistillationLoss:
    """Squared error to the teacher's prediction at the same noisy image."""

    name = "distillation"
    description = "squared error to the dense model's prediction"
    needs_teacher = True

    def __call__(self, step: Step) -> torch.Tensor:
        return mse_loss(step.prediction.float(), step.teacher_prediction.float())


LOSS = DistillationLoss()
