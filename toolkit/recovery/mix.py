"""Which losses train a compressed model if the settings name none, and which features they compare."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.pruning.plan import Plan

DISTILLATION = {"distillation": 1.0, "features": 0.01}
"""The best mix on the embedded default at equal steps and at equal time (benchmarks/recovery.py, decision 6)."""


def default_mix(plan: Plan, student: nn.Module, *, compiled: bool) -> dict[str, float]:
    """The weight of each loss that fits a plan.

    Fresh weights are trained as any model is, on noise. Features are left out if the plan knows none to compare, or
    if the networks are ``compiled`` and cannot be looked into.
    """
    if plan.facts["requested"]["criterion"] == "scratch":
        return {"noise": 1.0}
    if compiled or not comparable_blocks(plan, student):
        return {"distillation": 1.0}
    return DISTILLATION


def comparable_blocks(plan: Plan, student: nn.Module) -> list[str]:
    """The student's residual blocks whose outputs the plan knows.

    A residual block is a module whose output leaves a layer called ``conv2`` (diffusers' ResnetBlock2D). If the
    dense model has more of them in a row, those that stay have other numbers there: none of that row is compared.
    """
    blocks = [name.removesuffix(".conv2") for name, _ in student.named_modules() if name.endswith(".conv2")]
    rows = Counter(block.rpartition(".")[0] for block in blocks)

    def known(block: str) -> bool:
        return plan.kept_indices(f"{block}.conv2.weight") is not None

    return [block for block in blocks if known(block) and not known(f"{(row := block.rpartition('.')[0])}.{rows[row]}")]


def kept_features(plan: Plan, student: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """For every comparable block, the dense channels (C',) that its output holds.

    Raises DtkError if there is none.
    """
    blocks = comparable_blocks(plan, student)
    if not blocks:
        raise DtkError(
            "The loss 'features' has nothing to compare.",
            found=f"plan.json knows no residual block of a {type(student).__name__}",
            expected="a model of residual blocks, such as a UNet",
            do="leave 'features' out of recover.losses",
        )
    return {block: torch.tensor(plan.kept_indices(f"{block}.conv2.weight"), device=device) for block in blocks}
