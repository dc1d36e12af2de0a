"""One pass through a denoiser: its prediction and, if a loss asks for it, a directional derivative and features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from toolkit.adapters.inputs import keywords

Predict = Callable[..., tuple[torch.Tensor]]


@dataclass
class Pass:
    """``prediction`` (B, C, H, W), its ``derivative`` along a direction, and ``features`` (B, C', H', W') by name."""

    prediction: torch.Tensor
    derivative: torch.Tensor | None = None
    features: dict[str, torch.Tensor] = field(default_factory=dict)


def run(
    predict: Predict,
    module: nn.Module,
    x_t: torch.Tensor,
    t: torch.Tensor,
    conditioning: dict[str, Any],
    *,
    direction: torch.Tensor | None = None,
    features: Sequence[str] = (),
) -> Pass:
    """Call ``predict`` once. ``module`` is the network inside it, whose submodules ``features`` names.

    The derivative is a forward-mode Jacobian-vector product with respect to ``x_t`` along ``direction``, in the same
    pass as the prediction; it carries gradients to the parameters.
    """
    given = keywords(conditioning)
    with recorded(module, features) as by_block:
        if direction is None:
            return Pass(predict(x_t, t, return_dict=False, **given)[0], features=by_block)
        with WrittenOutAttention(), contiguous_norms(module), forward_ad.dual_level():
            dual = forward_ad.make_dual(x_t, direction.to(x_t))
            prediction, derivative = forward_ad.unpack_dual(predict(dual, t, return_dict=False, **given)[0])
            by_block = {name: forward_ad.unpack_dual(feature).primal for name, feature in by_block.items()}
    if derivative is None:
        derivative = torch.zeros_like(prediction)
    return Pass(prediction, derivative, by_block)


@contextlib.contextmanager
def recorded(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect what the named submodules return while the context lasts."""
    features: dict[str, torch.Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda submodule, inputs, output: features.__setitem__(name, output)

    handles = [module.get_submodule(name).register_forward_hook(recorder(name)) for name in names]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


class WrittenOutAttention(TorchFunctionMode):
    """Attention from its parts while the context lasts.

    Fused kernels have no forward-mode rule. The math kernel has one, but training also differentiates the derivative,
    and torch 2.13's forward-mode rule of softmax overwrites what that needs. Hence the softmax is written out, too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (attention if func is functional.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d) + mask) V, with the arguments of torch's own, but no causal mask and no dropout."""
    if is_causal or dropout_p or any(options.values()):
        raise NotImplementedError("attention with dropout, a causal mask or grouped queries")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        mask = torch.where(attn_mask, 0.0, -torch.inf) if attn_mask.dtype == torch.bool else attn_mask
        scores = scores + mask.to(scores)
    powers = (scores - scores.amax(-1, keepdim=True).detach()).exp()
    return powers / powers.sum(-1, keepdim=True) @ value


@contextlib.contextmanager
def contiguous_norms(module: nn.Module) -> Iterator[None]:
    """Give every GroupNorm a contiguous input while the context lasts: its forward-mode rule needs one."""

    def contiguous(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    norms = (submodule for submodule in module.modules() if isinstance(submodule, nn.GroupNorm))
    handles = [norm.register_forward_pre_hook(contiguous) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
