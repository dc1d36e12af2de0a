"""Feature distillation: the compressed model's features against the same channels of the dense model's.

FitNets (Romero et al. 2015) need a learned adapter between features of different widths. A pruned model needs none: the
plan says which of the dense channels it kept. Each feature's error is relative to the dense feature's size, so that all
depths count alike (as in LAPTOP-Diff, Zhang et al. 2024, which normalises them too).
"""

from __future__ import annotations

import torch

from toolkit.recovery.losses.base import TrainingStep, squared_error


class FeatureLoss:
    """Relative squared error of the residual blocks' outputs on the kept channels, averaged over the blocks."""

    name = "features"
    description = "relative squared error to the dense model's features, on the channels that were kept"
    needs_teacher = needs_features = True
    needs_direction = False

    def __call__(self, step: TrainingStep) -> torch.Tensor:
        wanted, actual = step.of_teacher.features, step.of_student.features
        errors = [squared_error(actual[name], feature) / _size(feature) for name, feature in wanted.items()]
        return torch.stack(errors).mean(0)


def _size(feature: torch.Tensor) -> torch.Tensor:
    """The mean square of each item (B,), kept off zero."""
    return feature.float().square().flatten(1).mean(1).clamp_min(1e-6)


LOSS = FeatureLoss()
