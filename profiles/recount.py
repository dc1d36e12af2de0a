"""MACs of many networks of one architecture from the trace of a single one.

To trace a network takes a second or two, even on the meta device, and a solver prices dozens that differ in nothing but
widths and missing blocks. How many positions a layer is applied at depends on neither, so these are recorded once; what
a layer costs at one position can be read off its weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from profiles.macs import count_macs, top_level_parts


class Recount:
    """Counts networks with the layers and the input size of ``reference``, but other widths.

    ``inputs`` hold one item. The reference is counted both ways, and if they differ (an operator that is no layer)
    every network is traced.
    """

    def __init__(self, reference: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
        self._inputs = inputs
        with _recording(reference) as self._positions:
            traced = count_macs(reference, inputs)
        self._is_exact = self._sum(reference) == traced.macs

    def __call__(self, module: nn.Module) -> dict[str, int]:
        """MACs of one call, by top-level part as in profiles.macs."""
        if not self._is_exact or not self._knows(module):
            by_part = count_macs(module, self._inputs).by_part
            return {part: sum(kinds.values()) for part, kinds in by_part.items()}
        counted = {name: self._sum(part, f"{name}.") for name, part in top_level_parts(module)}
        return {name: macs for name, macs in counted.items() if macs}

    def _knows(self, module: nn.Module) -> bool:
        return all(name in self._positions for name, layer in module.named_modules() if _is_layer(layer))

    def _sum(self, module: nn.Module, prefix: str = "") -> int:
        at, total = self._positions, 0
        for name, layer in module.named_modules():
            full = f"{prefix}{name}".rstrip(".")
            if _is_layer(layer):
                total += layer.weight.numel() * at.get(full, 0)
            elif _is_attention(layer):
                width = layer.to_q.out_features + layer.to_v.out_features
                total += width * at.get(f"{full}.to_q", 0) * at.get(f"{full}.to_k", 0)
        return total


@contextlib.contextmanager
def _recording(module: nn.Module) -> Iterator[dict[str, int]]:
    """While it is open, note at how many positions each layer is applied."""
    by_part: dict[str, int] = {}

    def recorder(name: str, channels: int) -> Callable[..., None]:
        def record(layer: nn.Module, given: object, output: torch.Tensor) -> None:
            by_part[name] = by_part.get(name, 0) + output.numel() // channels

        return record

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(recorder(name, layer.weight.shape[0])) for name, layer in layers]
    try:
        yield by_part
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _is_attention(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in ("to_q", "to_k", "to_v"))
