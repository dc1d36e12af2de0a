"""The layout of a diffusers model, from Torch-Pruning's dependency graph.

Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023) finds which layers are coupled. Its
tracing runs on the ``meta`` device, so that it costs no memory. What it couples more tightly than the function asks for
(attention, gated feed-forward) is loosened in ``couplings``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.adapters.inputs import keywords
from toolkit.core.errors import DtkError
from toolkit.pruning.layout import FIXED, Dimension, Group, Layout, Segment

Owners = dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]
"""(parameter, dimension) -> for each index the name of the owning group, and the channel's number in it."""


def trace(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Owners:
    """Who owns each index of each dimension of ``model``'s parameters; ``model`` and ``inputs`` may lie on meta."""
    import torch_pruning as tp

    graph = tp.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        named = keywords(inputs)
        graph.build_dependency(model, named, forward_fn=lambda net, x: net(**x, return_dict=False)[0])
    owners: Owners = {}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        _record(owners, group, graph)
    return owners


def _record(owners: Owners, group: Any, graph: Any) -> None:
    """Enter one of Torch-Pruning's groups into the table, under the name of its root layer."""
    names = {module: name for name, module in graph.model.named_modules()}
    root = names[group[0].dep.target.module]
    for member in group:
        module = member.dep.target.module
        if module not in names:  # an operation without parameters
            continue
        outward = graph.is_out_channel_pruning_fn(member.dep.handler)
        for tensor, dim in _dimensions(module, names[module], outward):
            size = module.get_parameter(tensor.rpartition(".")[2]).shape[dim]
            owner, channel = owners.setdefault((tensor, dim), (np.full(size, FIXED, dtype=object), np.arange(size)))
            owner[member.idxs] = root
            channel[member.idxs] = member.root_idxs


def _dimensions(module: nn.Module, name: str, outward: bool) -> list[tuple[str, int]]:
    """The (parameter, dimension) pairs that hold a layer's output channels, or its input channels."""
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise DtkError(f"The layer {name} is a grouped convolution.", found=f"groups={module.groups}", expected="1")
    if isinstance(module, nn.Embedding):
        return [(f"{name}.weight", 1)]
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        return [(f"{name}.{leaf}", 0) for leaf, _ in module.named_parameters(recurse=False)]
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise DtkError(f"dtk cannot slice the layer {name}.", found=type(module).__name__)
    bias = [(f"{name}.bias", 0)] if outward and module.bias is not None else []
    return [(f"{name}.weight", 0 if outward else 1), *bias]


def assign(owners: Owners, places: list[tuple[str, int]], group: str, repeat: int = 1) -> None:
    """Hand whole dimensions to ``group``; with ``repeat`` 2 each holds the channels twice, one after another."""
    for place in places:
        owner, channel = owners[place]
        owner[:] = group
        channel[:] = np.tile(np.arange(len(owner) // repeat), repeat)


def layout(owners: Owners) -> Layout:
    """The table with runs of channels joined to segments; raises DtkError if a group is held in another order."""
    tensors: dict[str, dict[int, Dimension]] = {}
    sizes: dict[str, int] = {}
    for (tensor, dim), (owner, channel) in owners.items():
        segments = tuple(_segments(owner, channel, f"{tensor}, dimension {dim}"))
        tensors.setdefault(tensor, {})[dim] = segments
        sizes |= {segment.group: segment.size for segment in segments if segment.group != FIXED}
    for tensor, dims in tensors.items():
        for segment in (segment for segments in dims.values() for segment in segments):
            if segment.group != FIXED and segment.size != sizes[segment.group]:
                raise DtkError(
                    f"{tensor} holds {segment.size} of the {sizes[segment.group]} channels of {segment.group}."
                )
    return Layout({name: Group(name, size, block=size) for name, size in sizes.items()}, tensors)


def _segments(owner: np.ndarray, channel: np.ndarray, where: str) -> list[Segment]:
    starts = [i for i in range(len(owner)) if i == 0 or channel[i] == 0 or owner[i] != owner[i - 1]]
    segments = []
    for start, stop in zip(starts, [*starts[1:], len(owner)], strict=True):
        group = str(owner[start])
        if group != FIXED and not np.array_equal(channel[start:stop], np.arange(stop - start)):
            raise DtkError(f"dtk cannot follow the channels of {group} through {where}.")
        segments.append(Segment(group, stop - start))
    return segments
