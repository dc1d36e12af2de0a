"""From tensors to channels: the loss that is scored, and importance summed over coupled layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.pruning.layout import FIXED, Layout, offsets


@dataclass(frozen=True)
class Scored:
    """A score for each channel of each group, and what is worth recording about how it came about.

    ``halves`` are the scores by each half of the calibration images only; empty for criteria that read none.
    """

    scores: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    halves: Sequence[Mapping[str, np.ndarray]] = ()


Importance = Callable[[str, torch.Tensor], torch.Tensor]
"""The importance of every entry of a parameter, given its name and itself, of its shape."""


def score_channels(
    model: nn.Module, layout: Layout, importance: Importance, norm_term: Importance | None = None
) -> dict[str, np.ndarray]:
    """Sum the importance of every weight over each channel's slices, inputs and outputs alike: float64 (size,) each.

    Weights of convolutions and linears count, biases do not. ``norm_term`` adds the norms' weights as well.
    """
    scores = {name: np.zeros(group.size) for name, group in layout.groups.items()}
    norms = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)}
    parameters = dict(model.named_parameters())
    for tensor, dims in layout.tensors.items():
        term = norm_term if tensor in norms else importance
        if term is None or tensor.endswith(".bias"):
            continue
        entries = term(tensor, parameters[tensor].detach()).double()
        if not entries.isfinite().all():
            raise DtkError(f"The scores of the tensor {tensor} hold NaN or infinity.", expected="finite gradients")
        for dim, segments in dims.items():
            sums = entries.movedim(dim, 0).flatten(1).sum(1) if entries.ndim > 1 else entries
            for offset, segment in offsets(segments):
                if segment.group != FIXED:
                    scores[segment.group] += sums[offset : offset + segment.size].cpu().numpy()
    return scores
