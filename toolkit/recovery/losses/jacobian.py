"""Second-order Jacobian matching: the compressed model expands a direction as much as the dense one.

The third term of 2ndMatch (arXiv 2506.05398): (|J v|^2 - |J_D v|^2)^2, with J and J_D the Jacobians of the two
predictions with respect to x_t, and v a random unit vector. Matching J v itself is already implied by distilling the
output on noisy inputs; |J v| is what keeps sampling as stable as the dense model's.
"""

from __future__ import annotations

import torch

from toolkit.recovery.losses.base import Step
from toolkit.recovery.passes import Pass


class JacobianLoss:
    """Squared difference of the squared lengths of J v and J_D v."""

    name = "jacobian"
    description = "squared difference of how far both models expand a random direction: |Jv|^2 (about 4 times the cost)"
    needs_teacher = needs_direction = True
    needs_features = False

    def __call__(self, step: Step) -> torch.Tensor:
        return (expansion(step.of_student) - expansion(step.of_teacher)).square()


def expansion(found: Pass) -> torch.Tensor:
    """|J v|^2 of each item (B,)."""
    if found.derivative is None:
        raise RuntimeError("this loss needs a direction, and none was drawn")
    return found.derivative.float().square().flatten(1).sum(1)


LOSS = JacobianLoss()
