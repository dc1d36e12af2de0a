"""The network of the DDIM code base, written from its description as functions over a state dict.

Made of tensors by their original names; shares nothing with diffusers or with the key map that is tested.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import conv2d, group_norm, interpolate, linear, pad, silu

from toolkit.core.noise import normal

State = dict[str, torch.Tensor]


def random_state(channels: int, multiples: tuple[int, ...], layers: int, attends: int) -> State:  # noqa: C901 - one network, top to bottom
    """Random weights of a network whose level ``attends`` has attention."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, out: int, into: int, size: int) -> None:
        shapes[f"{name}.weight"] = (out, into, size, size) if size else (out, into)
        shapes[f"{name}.bias"] = (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def block(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into), norm(f"{name}.norm2", out)
        layer(f"{name}.conv1", out, into, 3), layer(f"{name}.conv2", out, out, 3)
        layer(f"{name}.temb_proj", out, 4 * channels, 0)
        if into != out:
            layer(f"{name}.nin_shortcut", out, into, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", width, width, 1)

    layer("temb.dense.0", 4 * channels, channels, 0), layer("temb.dense.1", 4 * channels, 4 * channels, 0)
    layer("conv_in", channels, 3, 3)
    widths = [channels * multiple for multiple in multiples]
    skips, width = [channels], channels
    for level, wide in enumerate(widths):
        for number in range(layers):
            block(f"down.{level}.block.{number}", width, wide)
            width = wide
            if level == attends:
                attention(f"down.{level}.attn.{number}", wide)
            skips.append(wide)
        if level < len(widths) - 1:
            layer(f"down.{level}.downsample.conv", wide, wide, 3)
            skips.append(wide)
    block("mid.block_1", width, width), attention("mid.attn_1", width), block("mid.block_2", width, width)
    for level, wide in reversed(list(enumerate(widths))):
        for number in range(layers + 1):
            block(f"up.{level}.block.{number}", width + skips.pop(), wide)
            width = wide
            if level == attends:
                attention(f"up.{level}.attn.{number}", wide)
        if level:
            layer(f"up.{level}.upsample.conv", wide, wide, 3)
    norm("norm_out", width), layer("conv_out", 3, width, 3)
    return {
        name: torch.from_numpy(normal(f"ddim {name}", 0, shape=shape)) / max(math.prod(shape[1:]), 4) ** 0.5
        for name, shape in shapes.items()
    }


def forward(s: State, x: torch.Tensor, t: torch.Tensor, levels: int, layers: int) -> torch.Tensor:  # noqa: C901
    """The predicted noise (B, 3, H, W) at ``x`` and timesteps ``t`` (B,)."""

    def conv(name: str, h: torch.Tensor, **options: int) -> torch.Tensor:
        return conv2d(h, s[f"{name}.weight"], s[f"{name}.bias"], **options)

    def norm(name: str, h: torch.Tensor) -> torch.Tensor:
        return group_norm(h, 32, s[f"{name}.weight"], s[f"{name}.bias"], eps=1e-6)

    def block(name: str, h: torch.Tensor) -> torch.Tensor:
        inner = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)), padding=1)
        inner = inner + linear(silu(temb), s[f"{name}.temb_proj.weight"], s[f"{name}.temb_proj.bias"])[:, :, None, None]
        inner = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", inner)), padding=1)
        return inner + (conv(f"{name}.nin_shortcut", h) if f"{name}.nin_shortcut.weight" in s else h)

    def attention(name: str, h: torch.Tensor) -> torch.Tensor:
        if f"{name}.norm.weight" not in s:
            return h
        normed = norm(f"{name}.norm", h)
        q, k, v = (conv(f"{name}.{part}", normed).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5, dim=2)
        return h + conv(f"{name}.proj_out", torch.einsum("bij,bcj->bci", weights, v).unflatten(2, h.shape[2:]))

    half = s["conv_in.weight"].shape[0] // 2
    angles = t[:, None].float() * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))[None]
    temb = linear(torch.cat([angles.sin(), angles.cos()], 1), s["temb.dense.0.weight"], s["temb.dense.0.bias"])
    temb = linear(silu(temb), s["temb.dense.1.weight"], s["temb.dense.1.bias"])
    hs = [conv("conv_in", x, padding=1)]
    for level in range(levels):
        for number in range(layers):
            hs.append(attention(f"down.{level}.attn.{number}", block(f"down.{level}.block.{number}", hs[-1])))
        if level < levels - 1:
            hs.append(conv(f"down.{level}.downsample.conv", pad(hs[-1], (0, 1, 0, 1)), stride=2))
    h = block("mid.block_2", attention("mid.attn_1", block("mid.block_1", hs[-1])))
    for level in reversed(range(levels)):
        for number in range(layers + 1):
            h = block(f"up.{level}.block.{number}", torch.cat([h, hs.pop()], 1))
            h = attention(f"up.{level}.attn.{number}", h)
        if level:
            h = conv(f"up.{level}.upsample.conv", interpolate(h, scale_factor=2.0), padding=1)
    return conv("conv_out", silu(norm("norm_out", h)), padding=1)
