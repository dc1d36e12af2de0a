"""Where half precision would overflow: the first layer beyond the largest number of fp16, and what is kept in float32.

ONNX Runtime computes half precision in float32 on a CPU, so it does not show what a GPU would. But torch's float32
does: a layer that reads or computes more than 65504 there is infinite, and soon NaN, in fp16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import nn

from exporters.settings import DtypeName
from toolkit.core.errors import DtkError
from toolkit.core.numerics import torch_numerics
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import DTYPES, BorderedDenoiser, kept_names


@dataclass(frozen=True)
class Overflow:
    """The first layer beyond the range of a dtype, the largest magnitude there, and all that must be float32.

    ``needed`` is empty if float32 itself does not suffice.
    """

    layer: str
    magnitude: float
    needed: tuple[str, ...]


class RangeWatch:
    """The model in torch, float32: a reference that notes how large the numbers of each layer get.

    It computes on ``device``, with no product rounded to TF32; what it takes and gives lies on the CPU.
    """

    name, device = "torch", "cpu"

    def __init__(self, model: ModelFolder, device: str = "cpu") -> None:
        self._place = device
        self._denoiser = BorderedDenoiser(load_denoiser(model)).to(device)
        self.magnitudes: dict[str, float] = {}  # by module, in the order of computation
        for name, module in self._denoiser.denoiser.named_modules():
            if name and any(True for _ in module.parameters()):  # activations are shared by several layers
                module.register_forward_hook(self._note(name))

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        given = {name: tensor.to(self._place) for name, tensor in conditioning.items()}
        with torch.inference_mode(), torch_numerics():
            prediction: torch.Tensor = self._denoiser(sample.to(self._place), timestep.to(self._place), **given)
        return prediction.cpu()

    def close(self) -> None:
        del self._denoiser

    def _note(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """A block is noted after its parts, so that a sum that overflows is distinguished from what it adds up."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            own = list(module.parameters(recurse=False))
            weights = [] if name in self.magnitudes else own  # they do not change from call to call
            reads = inputs if own else ()  # a block's parts tell what they read themselves
            largest = max((_magnitude(tensor) for tensor in [*_floats((reads, output)), *weights]), default=0.0)
            self.magnitudes[name] = max(largest, self.magnitudes.get(name, 0.0))

        return hook

    def overflow(self, dtype: DtypeName, keep_fp32: Sequence[str] = ()) -> Overflow | None:
        """What of all that was computed so far is beyond ``dtype``, the layers kept in float32 left out."""
        largest = torch.finfo(DTYPES[dtype]).max
        kept = kept_names(self._denoiser.denoiser, keep_fp32)
        beyond = {name: m for name, m in self.magnitudes.items() if m > largest and name not in kept}
        if not beyond:
            return None
        layer = next(iter(beyond))
        suffices = max(self.magnitudes.values()) < inf
        return Overflow(layer, beyond[layer], tuple(beyond) if suffices else ())


def _magnitude(tensor: torch.Tensor) -> float:
    """The largest magnitude; infinite if there is a NaN."""
    largest = float(tensor.detach().abs().amax()) if tensor.numel() else 0.0
    return largest if largest == largest else inf


def _floats(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [tensor for entry in value for tensor in _floats(entry)] if isinstance(value, (tuple, list)) else []


def overflow_error(name: str, dtype: DtypeName, overflow: Overflow, keep_fp32: Sequence[str]) -> DtkError:
    """The error for a model that overflows, with the offer to keep the layers that would in float32."""
    wider = "export bf16 (--dtype bf16 --opset 22), which has the range of float32, or fp32"
    patterns = ",".join([*keep_fp32, *overflow.needed])
    return DtkError(
        f"{name} overflows in {dtype}: the first layer is {overflow.layer}.",
        found=f"numbers up to {overflow.magnitude:.3g} in it",
        expected=f"at most {torch.finfo(DTYPES[dtype]).max:g}, the largest of {dtype}",
        do=f"add --keep-fp32 {patterns} to keep what overflows in float32, or {wider}" if overflow.needed else wider,
    )
