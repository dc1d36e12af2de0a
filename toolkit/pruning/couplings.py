"""What diffusers' building blocks couple, whenever that is looser than, or hidden from, a trace.

Attention: q is tied to k and v to the output projection, not all four to each other, unless whole heads go. GEGLU: the
value and the gate lose the same indices. ResNet blocks with a scale and a shift from the time embedding: both follow
the block's hidden channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from toolkit.pruning.layout import Group, Layout
from toolkit.pruning.trace import Owners, assign, layout


def couple(owners: Owners, model: nn.Module, *, whole_heads: bool) -> Layout:
    """The layout of a traced diffusers model, with the channels of attention bound to their heads."""
    heads: dict[str, int] = {}
    for name, module in attentions(model):
        heads |= _couple_attention(owners, name, module, whole_heads)
    for name, module in model.named_modules():
        if type(module).__name__ == "FeedForward":
            _couple_feed_forward(owners, name, module)
        if getattr(module, "time_embedding_norm", None) == "scale_shift":
            _couple_scale_shift(owners, name)
    return _bind_heads(layout(owners), heads, whole_heads)


def attentions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every diffusers ``Attention`` module with its name."""
    from diffusers.models.attention_processor import Attention

    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, Attention))


def norm_groups(model: nn.Module) -> dict[str, int]:
    """The number of groups of every GroupNorm, by its weight's name."""
    return {f"{name}.weight": norm.num_groups for name, norm in model.named_modules() if isinstance(norm, nn.GroupNorm)}


def _couple_attention(owners: Owners, name: str, module: nn.Module, whole_heads: bool) -> dict[str, int]:
    keys = _places(owners, f"{name}.to_q", 0) + _places(owners, f"{name}.to_k", 0)
    values = _places(owners, f"{name}.to_v", 0) + [(f"{name}.to_out.0.weight", 1)]
    inner = len(owners[keys[0]][0])
    size = inner // int(module.heads)  # type: ignore[arg-type]
    if whole_heads:
        assign(owners, keys + values, f"{name}.heads")
        return {f"{name}.heads": size}
    assign(owners, keys, f"{name}.query_key")
    assign(owners, values, f"{name}.value_out")
    return {f"{name}.query_key": size, f"{name}.value_out": size}


def _couple_feed_forward(owners: Owners, name: str, module: nn.Module) -> None:
    projection = module.get_submodule("net.0.proj")
    gated = module.get_submodule("net.2").in_features != projection.out_features
    assign(owners, _places(owners, f"{name}.net.0.proj", 0), f"{name}.inner", repeat=2 if gated else 1)
    assign(owners, [(f"{name}.net.2.weight", 1)], f"{name}.inner")


def _couple_scale_shift(owners: Owners, name: str) -> None:
    hidden = _places(owners, f"{name}.conv1", 0) + _places(owners, f"{name}.norm2", 0) + [(f"{name}.conv2.weight", 1)]
    assign(owners, hidden, f"{name}.hidden")
    assign(owners, _places(owners, f"{name}.time_emb_proj", 0), f"{name}.hidden", repeat=2)


def _places(owners: Owners, layer: str, dim: int) -> list[tuple[str, int]]:
    return [place for place in ((f"{layer}.weight", dim), (f"{layer}.bias", 0)) if place in owners]


def _bind_heads(table: Layout, head_sizes: Mapping[str, int], whole_heads: bool) -> Layout:
    groups: dict[str, Group] = dict(table.groups)
    for name, size in head_sizes.items():
        group = groups[name]
        groups[name] = replace(group, unit=size) if whole_heads else replace(group, block=size)
    return table.with_groups(groups)
