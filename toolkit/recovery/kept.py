"""Which channels of the dense model's features the compressed model has, from RUN/prune/plan.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from toolkit.errors import DtkError

FIXED = ""  # plan.json's name for channels that never go


def kept_channels(plan: Mapping[str, Any], tensor: str, dim: int = 0) -> list[int]:
    """The indices of a dimension of a dense tensor that the plan keeps, ascending within each segment."""
    kept: list[int] = []
    start = 0
    for group, size in plan["tensors"][tensor][str(dim)]:
        inside = range(size) if group == FIXED else plan["groups"][group]["kept"]
        kept += [start + index for index in inside]
        start += size
    return kept


def comparable_blocks(plan: Mapping[str, Any], student: nn.Module) -> list[str]:
    """The student's residual blocks whose outputs the plan knows.

    A residual block is a module whose output leaves a layer called ``conv2`` (diffusers' ResnetBlock2D).
    """
    blocks = [name.removesuffix(".conv2") for name, _ in student.named_modules() if name.endswith(".conv2")]
    return [block for block in blocks if "0" in plan["tensors"].get(f"{block}.conv2.weight", {})]


def kept_features(plan: Mapping[str, Any], student: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """For every comparable block, the dense channels (C',) that its output holds.

    Raises DtkError where there is none.
    """
    kept = {
        block: torch.tensor(kept_channels(plan, f"{block}.conv2.weight"), device=device)
        for block in comparable_blocks(plan, student)
    }
    if not kept:
        raise DtkError(
            "The loss 'features' has nothing to compare.",
            found=f"plan.json knows no residual block of a {type(student).__name__}",
            expected="a model of residual blocks, such as a UNet",
            do="leave 'features' out of recover.losses",
        )
    return kept
