"""A denoiser in the precision it runs in: half precision, some layers kept in float32, float32 inputs and output.

A kept layer hands its result on in float32: what overflowed must not be squeezed back into half precision before the
layer that can bear it. Every other layer casts what it reads to its own precision, and sums of both are float32, as
torch promotes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from toolkit.adapters.inputs import keywords


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The modules that a pattern names: shell wildcards over the whole dotted name, such as ``mid_block.*``."""
    return [name for name in names if name and fnmatchcase(name, pattern)]


def convert(model: nn.Module, dtype: torch.dtype, keep_fp32: Sequence[str] = ()) -> float:
    """Convert ``model`` to ``dtype`` in place, but for the modules that match ``keep_fp32`` and all inside them.

    An attention module is kept whole, since queries, keys and values meet in one operator. Returns the share of the
    parameters that stayed in float32.
    """
    names = kept_names(model, keep_fp32)
    kept = {module for name, module in model.named_modules() if name in names}
    for module in model.modules():
        own = torch.float32 if module in kept else dtype
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(own)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():  # set anew: a buffer may be a view, whose base would stay what it was
                setattr(module, name, buffer.to(own))
    if kept:
        for module in model.modules():
            _cast_inputs(module)
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    return sum(p.numel() for p in parameters if p.dtype == torch.float32) / total if total else 0.0


def kept_names(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The names of the modules that the patterns keep: what they match, and all inside."""
    modules = dict(model.named_modules())
    roots = {_attention_around(name, modules) for pattern in patterns for name in matching(modules, pattern)}
    return {name for name in modules if any(name == root or name.startswith(f"{root}.") for root in roots)}


def _attention_around(name: str, modules: dict[str, nn.Module]) -> str:
    """The attention module that ``name`` is a part of, else ``name`` itself."""
    parts = name.split(".")
    around = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((above for above in around if hasattr(modules[above], "to_q")), name)


def _cast_inputs(module: nn.Module) -> None:
    """Let a module with parameters of its own read in their precision."""
    own = [parameter.dtype for parameter in module.parameters(recurse=False) if parameter.is_floating_point()]
    if own:
        module.register_forward_pre_hook(_cast_to(own[0]))


def _cast_to(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.to(dtype) if _is_float(value) else value for value in inputs)

    return hook


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def stored_in(dtype: str) -> str:
    """The type that a network's numbers have in a precision: tf32 is a way to multiply those of fp32."""
    return "fp32" if dtype == "tf32" else dtype


class BorderedDenoiser(nn.Module):
    """A diffusers denoiser computing in ``dtype`` (fp32, fp16 or bf16) behind float32 inputs and output.

    The denoiser is converted in place, but for its modules that match ``keep_fp32`` (shell wildcards over their names);
    ``kept_share`` says how many of its parameters stayed in float32.
    """

    def __init__(self, denoiser: nn.Module, dtype: str = "fp32", keep_fp32: Sequence[str] = ()) -> None:
        super().__init__()
        self.dtype = DTYPES[dtype]
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.kept_share = convert(self.denoiser, self.dtype, keep_fp32)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from ``sample`` (B, C, H, W) float32 at ``timestep`` (B,) int64; returns (B, C', H, W) float32."""
        # half precision has no 4,097, and text_embeds are joined with the sinusoids of time_ids, which are float32
        exact = {"class_labels": class_labels, "text_embeds": text_embeds, "time_ids": time_ids}
        given = {name: tensor for name, tensor in exact.items() if tensor is not None}
        if encoder_hidden_states is not None:
            given["encoder_hidden_states"] = encoder_hidden_states.to(self.dtype)
        prediction: torch.Tensor
        (prediction,) = self.denoiser(sample.to(self.dtype), timestep, return_dict=False, **keywords(given))
        return prediction.to(sample.dtype)
