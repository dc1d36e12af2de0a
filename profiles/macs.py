"""Parameters and multiply-accumulate operations (MACs) of a network. One MAC is two FLOPs.

Two conventions are in use. ``macs`` counts convolutions, linear layers and the two products of attention (queries with
keys, weights with values); ``macs_without_attention_products`` leaves the products out, as thop, ptflops and
Torch-Pruning do, and with them the Diff-Pruning paper. Norms, activations and additions are in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toolkit.adapters.inputs import positional

CONVOLUTION, LINEAR, ATTENTION = "convolution", "linear", "attention products"
FLOPS_PER_MAC = 2
_KINDS = {
    "aten.convolution": CONVOLUTION,
    "aten._convolution": CONVOLUTION,
    "aten.addmm": LINEAR,
    "aten.mm": LINEAR,
    "aten.bmm": ATTENTION,  # a linear layer folds its leading dimensions into an mm; only attention multiplies batches
    "aten.baddbmm": ATTENTION,
}


@dataclass(frozen=True)
class Macs:
    """MACs of one call: by kind of operator, and by kind for each top-level part of the network."""

    by_kind: Mapping[str, int]
    by_part: Mapping[str, Mapping[str, int]]

    @property
    def macs(self) -> int:
        return sum(self.by_kind.values())

    @property
    def macs_without_attention_products(self) -> int:
        return self.macs - self.by_kind.get(ATTENTION, 0)


def count_params(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Macs:
    """MACs of one call on ``inputs``; module and inputs may lie on the meta device, where nothing is computed.

    Raises ValueError if an operator is counted that belongs to no known kind.
    """
    counter = FlopCounterMode(display=False)
    first, named = positional(inputs)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # the fused kernels of a CPU are not counted
        module(*first, **named)
    flops = counter.get_flop_counts()
    root = type(module).__name__
    parts = {name: _by_kind(flops.get(f"{root}.{name}", {})) for name, _ in top_level_parts(module)}
    return Macs(_by_kind(flops.get("Global", {})), {name: kinds for name, kinds in parts.items() if kinds})


def top_level_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a network, with the entries of a list in its place: down_blocks.0, down_blocks.1, ..."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{number}", entry) for number, entry in enumerate(child))
        else:
            yield name, child


def _by_kind(flops: Mapping[object, int]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for operator, count in flops.items():
        if str(operator) not in _KINDS:
            raise ValueError(f"no kind is known for the operator {operator}")
        kinds[_KINDS[str(operator)]] += count // FLOPS_PER_MAC
    return dict(kinds)
