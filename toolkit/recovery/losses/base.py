"""What a loss is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import nn


@dataclass
class Step:
    """One forward pass of recovery. Predictions are computed once, when a loss first asks for them.

    ``x_t`` (B, C, H, W) at timesteps ``t`` (B,); ``target`` is what the noise objective wants there.
    """

    student: Callable[..., tuple[torch.Tensor]]
    teacher: nn.Module | None
    x_t: torch.Tensor
    t: torch.Tensor
    target: torch.Tensor

    @cached_property
    def prediction(self) -> torch.Tensor:
        """What the compressed model predicts, with gradients."""
        return self.student(self.x_t, self.t, return_dict=False)[0]

    @cached_property
    def teacher_prediction(self) -> torch.Tensor:
        """What the dense model predicts, without gradients."""
        if self.teacher is None:
            raise RuntimeError("this loss needs a teacher, and none was loaded")
        with torch.no_grad():
            prediction: torch.Tensor = self.teacher(self.x_t, self.t, return_dict=False)[0]
        return prediction


class Loss(Protocol):
    """A term of the objective."""

    name: str
    description: str
    needs_teacher: bool

    def __call__(self, step: Step) -> torch.Tensor:
        """A scalar: the mean over the step's images and their elements."""
        ...
