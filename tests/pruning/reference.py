"""What a pruned model should compute, said a second time: the dense model with the dropped channels silenced.

Every layer that writes a dropped channel writes zero there, and every norm is replaced by: gather the kept channels,
normalise them in the partition of the pruned model, scatter them back among zeros. The time embedding's sinusoid and
first layer are the pruned model's: that they follow the dense ones is a law of its own (test_time_embedding.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from toolkit.pruning.layout import FIXED, Layout, offsets


class KeptNorm(nn.Module):
    """A GroupNorm or LayerNorm over the kept channels; dropped channels are zero."""

    def __init__(self, norm: nn.GroupNorm | nn.LayerNorm, kept: torch.Tensor, groups: int) -> None:
        super().__init__()
        self.norm, self.kept, self.groups = norm, kept, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, norm = self.kept, self.norm
        out = torch.zeros_like(x)
        if isinstance(norm, nn.GroupNorm):
            chosen = x.index_select(1, kept)
            out[:, kept] = nn.functional.group_norm(chosen, self.groups, norm.weight[kept], norm.bias[kept], norm.eps)
        else:
            chosen = x.index_select(-1, kept)
            out[..., kept] = nn.functional.layer_norm(
                chosen, (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps
            )
        return out


def kept_indices(segments: tuple, kept: Mapping[str, np.ndarray]) -> torch.Tensor:
    chosen: list[int] = []
    for offset, segment in offsets(segments):
        local = range(segment.size) if segment.group == FIXED else kept[segment.group]
        chosen += [offset + int(i) for i in local]
    return torch.tensor(chosen)


def silenced(dense: nn.Module, layout: Layout, kept: Mapping[str, np.ndarray], pruned: nn.Module) -> nn.Module:
    """The dense model with everything but the kept channels silenced."""
    model = copy.deepcopy(dense)
    if hasattr(model, "time_proj"):
        model.time_proj, model.time_embedding.linear_1 = pruned.time_proj, pruned.time_embedding.linear_1
    if hasattr(model, "add_embedding"):
        model.add_time_proj, model.add_embedding.linear_1 = pruned.add_time_proj, pruned.add_embedding.linear_1
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            segments = layout.tensors.get(name, {}).get(0)
            if segments is None or name.rpartition(".")[0] in norms or "time_embedding" in name:
                continue
            mask = torch.zeros(parameter.shape[0])
            mask[kept_indices(segments, kept)] = 1
            parameter.mul_(mask.reshape(-1, *[1] * (parameter.ndim - 1)))
    for name, norm in norms.items():
        segments = layout.tensors.get(f"{name}.weight", {}).get(0)
        if segments is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(
                model.get_submodule(parent),
                leaf,
                KeptNorm(norm, kept_indices(segments, kept), pruned.config.norm_num_groups),
            )
    return model


def sliced(layout: Layout, kept: Mapping[str, np.ndarray]) -> list[tuple[str, int]]:
    """The dimensions that lost channels; without the biases of keys, to which attention's softmax is blind."""
    return [
        (tensor, dim)
        for tensor, dim, segments in layout.dimensions()
        if any(s.group != FIXED and len(kept[s.group]) < s.size for s in segments) and not tensor.endswith("to_k.bias")
    ]


def permute(pruned: nn.Module, layout: Layout, kept: Mapping[str, np.ndarray], tensor: str, dim: int) -> None:
    """As if one kept-index list had been read in another order where this one tensor was sliced."""
    order, start = [], 0
    for segment in layout.tensors[tensor][dim]:
        size = segment.size if segment.group == FIXED else len(kept[segment.group])
        order.append(start + np.roll(np.arange(size), 1))
        start += size
    parameter = pruned.get_parameter(tensor)
    with torch.no_grad():
        parameter.copy_(parameter.index_select(dim, torch.from_numpy(np.concatenate(order))))
