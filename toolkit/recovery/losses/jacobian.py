"""Second-order Jacobian matching: the compressed model expands a direction as much as the dense one.

The third term of 2ndMatch (arXiv 2506.05398) is (|J v|^2 - |J_D v|^2)^2, with J and J_D the Jacobians of the two
predictions with respect to x_t, and v a random unit vector. Matching J v itself is already implied by distilling the
output on noisy inputs; |J v| is what keeps sampling as stable as the dense model's.

Here the difference is relative to |J_D v|^2, image by image. A predicted noise changes with x_t as 1/sigma_t: on the
embedded default |J_D v|^2 is 5,000 at t = 0 and 1 at t = 999, the term itself 2e7 and 0.9 after pruning, so that one
image of a small t would be the whole gradient of its batch. Relative differences are 0.76 and 0.87.
"""

from __future__ import annotations

import torch

from toolkit.recovery.losses.base import TrainingStep
from toolkit.recovery.passes import Pass

LEAST = 1e-6  # a teacher that does not answer to x_t at all would divide by zero


class JacobianLoss:
    """Squared relative difference of the squared lengths of J v and J_D v."""

    name = "jacobian"
    description = (
        "squared relative difference of how far both models expand a random direction: |Jv|^2 (about 4 times the cost)"
    )
    needs_teacher = needs_direction = True
    needs_features = False

    def __call__(self, step: TrainingStep) -> torch.Tensor:
        wanted = expansion(step.of_teacher)
        return ((expansion(step.of_student) - wanted) / wanted.clamp_min(LEAST)).square()


def expansion(passed: Pass) -> torch.Tensor:
    """|J v|^2 of each item (B,)."""
    if passed.derivative is None:
        raise RuntimeError("this loss needs a direction, and none was drawn")
    return passed.derivative.float().square().flatten(1).sum(1)


LOSS = JacobianLoss()
