"""Layers that stay in float32 inside a half-precision model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import tiny_conditional_unet, tiny_unet
from toolkit.models.precision import BorderedDenoiser, convert

SAMPLE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
TIMESTEP = torch.tensor([3, 50])


def types(model: torch.nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def test_a_pattern_keeps_what_it_names_and_all_inside() -> None:
    model = tiny_unet()
    share = convert(model, torch.float16, ["mid_block.resnets.*", "conv_out"])
    kept = {name for name, dtype in types(model).items() if dtype == torch.float32}
    assert kept == {n for n, _ in model.named_parameters() if n.startswith(("mid_block.resnets.", "conv_out."))}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert share == pytest.approx(sum(sizes[name] for name in kept) / sum(sizes.values()))


def test_an_attention_module_is_kept_whole() -> None:
    model = tiny_unet()
    convert(model, torch.bfloat16, ["mid_block.attentions.0.to_k"])
    kept = {name for name, dtype in types(model).items() if dtype == torch.float32}
    assert kept == {name for name in types(model) if name.startswith("mid_block.attentions.0.")}


def test_without_a_pattern_nothing_stays() -> None:
    model = tiny_unet()
    assert convert(model, torch.float16) == 0
    assert set(types(model).values()) == {torch.float16}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_all_kept_computes_what_float32_computes(dtype: str) -> None:
    full, kept = BorderedDenoiser(tiny_unet()), BorderedDenoiser(tiny_unet(), dtype, ["*"])
    borders = SAMPLE.to(kept.dtype).float()  # what half precision leaves of the input
    assert kept.kept_share == 1
    torch.testing.assert_close(kept(borders, TIMESTEP), full(borders, TIMESTEP), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("pattern", ["*norm*", "down_blocks.1.resnets.0.conv1", "*.attentions.*", "time_embedding.*"])
def test_any_part_may_be_kept_beside_halves(pattern: str) -> None:
    conditional = BorderedDenoiser(tiny_conditional_unet(), "fp16", [pattern])
    context = torch.ones(2, 5, 12)
    latents = SAMPLE[:, :1].expand(2, 4, 8, 8)
    expected = BorderedDenoiser(tiny_conditional_unet())(latents, TIMESTEP, encoder_hidden_states=context)
    got = conditional(latents, TIMESTEP, encoder_hidden_states=context)
    assert 0 < conditional.kept_share < 1
    assert float((got - expected).abs().max() / expected.abs().max()) < 2e-2


def test_a_buffer_that_is_a_view_is_converted_with_its_base() -> None:
    """A tracer looks at a view's base as well: DiT's position embedding is one."""
    model = nn.Module()
    model.register_buffer("position", torch.arange(6.0)[None])
    assert model.position._base is not None
    convert(model, torch.float16)
    assert model.position.dtype == torch.float16
    assert model.position._base is None or model.position._base.dtype == torch.float16
