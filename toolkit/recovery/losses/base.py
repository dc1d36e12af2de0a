"""What a loss is given and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from toolkit.core.registry import entries, entry
from toolkit.recovery import losses
from toolkit.recovery.passes import Pass, Predict, run


@dataclass
class TrainingStep:
    """One batch of recovery. Each network runs at most once, when a loss first asks for it.

    ``student`` is called, ``network`` is the module inside it (they differ if training is distributed or compiled).
    ``x_t`` (B, C, H, W) at timesteps ``t`` (B,); ``target`` is what the noise objective needs there. ``direction``, of
    the shape of ``x_t``, is where derivatives are taken along, one unit vector per image. ``kept``: submodules of both
    networks whose outputs are compared, and which channels of the teacher's the student has. ``conditioning`` is
    passed to both as keywords.
    """

    student: Predict
    network: nn.Module
    teacher: nn.Module | None
    x_t: torch.Tensor
    t: torch.Tensor
    target: torch.Tensor
    direction: torch.Tensor | None = None
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    conditioning: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def of_student(self) -> Pass:
        """The compressed model's pass, with gradients."""
        return self._run(self.student, self.network)

    @cached_property
    def of_teacher(self) -> Pass:
        """The dense model's pass, without gradients; its features have the kept channels."""
        if self.teacher is None:
            raise RuntimeError("this loss needs a teacher, and none was loaded")
        # inference mode knows no forward-mode derivatives
        with torch.no_grad() if self.direction is not None else torch.inference_mode():
            teacher_pass = self._run(self.teacher, self.teacher)
        features = {name: teacher_pass.features[name].index_select(1, kept) for name, kept in self.kept.items()}
        # autograd refuses to save a tensor of inference mode: a copy is an ordinary one
        return Pass(teacher_pass.prediction.clone(), teacher_pass.derivative, features)

    def _run(self, predict: Predict, module: nn.Module) -> Pass:
        return run(
            predict,
            module,
            self.x_t,
            self.t,
            self.conditioning,
            direction=self.direction,
            features=list(self.kept),
        )


class Loss(Protocol):
    """A term of the objective. What it needs is loaded, drawn and recorded for it."""

    name: str
    description: str
    needs_teacher: bool
    needs_direction: bool
    needs_features: bool

    def __call__(self, step: TrainingStep) -> torch.Tensor:
        """One value per image (B,), which does not depend on the other images of the batch."""
        ...


def squared_error(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of each item (B,), in float32."""
    return (one.float() - other.float()).square().flatten(1).mean(1)


def known_losses() -> dict[str, Loss]:
    """Every loss, by name."""
    return entries(losses, "LOSS", Loss)


def loss_called(name: str) -> Loss:
    """The loss called ``name``; an unknown one is refused with the list of known ones."""
    loss: Loss = entry(known_losses(), "loss", name)
    return loss
