"""Which losses train a compressed model where the settings name none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from toolkit.recovery.kept import comparable_blocks

DISTILLATION = {"distillation": 1.0, "features": 0.01}
"""The mix that won on the embedded default at equal steps and at equal time (benchmarks/recovery.py, decision 6)."""


def default_mix(plan: Mapping[str, Any], student: nn.Module, *, compiled: bool) -> dict[str, float]:
    """The weight of each loss that fits a plan.

    Fresh weights are trained as any model is, on noise. Features are left out where the plan knows none to compare, or
    where the networks are ``compiled`` and cannot be looked into.
    """
    if plan["asked"]["criterion"] == "scratch":
        return {"noise": 1.0}
    if compiled or not comparable_blocks(plan, student):
        return {"distillation": 1.0}
    return DISTILLATION
