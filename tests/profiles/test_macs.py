"""MACs and params against layers counted by hand, and against the published sizes of whole networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from profiles.macs import ATTENTION, CONVOLUTION, LINEAR, count_macs, count_params
from tests.tiny import tiny_unet
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.models.build import build_model


class Attention(nn.Module):
    """Heads of scaled dot product attention and nothing else: 2 * heads * queries * keys * size MACs."""

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, key)


class OldAttention(nn.Module):
    """The same, written out as older attention processors do."""

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        query, key = query.flatten(0, 1), key.flatten(0, 1)
        start = torch.empty(query.shape[0], query.shape[1], key.shape[1], device=query.device)
        weights = torch.baddbmm(start, query, key.transpose(1, 2), beta=0).softmax(-1)
        return torch.bmm(weights, key)


HEADS = {"query": torch.zeros(2, 3, 10, 8), "key": torch.zeros(2, 3, 7, 8)}
COUNTED = {
    "convolution": (nn.Conv2d(3, 5, 3, padding=1), {"input": torch.zeros(2, 3, 8, 8)}, CONVOLUTION, 2 * 64 * 5 * 3 * 9),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), {"input": torch.zeros(1, 4, 8, 8)}, CONVOLUTION, 16 * 6 * 36),
    "grouped": (nn.Conv2d(4, 8, 3, groups=4), {"input": torch.zeros(1, 4, 8, 8)}, CONVOLUTION, 36 * 8 * 9),
    "pointwise": (nn.Conv2d(4, 8, 1), {"input": torch.zeros(1, 4, 8, 8)}, CONVOLUTION, 64 * 8 * 4),
    "linear": (nn.Linear(6, 5), {"input": torch.zeros(3, 6)}, LINEAR, 3 * 6 * 5),
    "linear without bias": (nn.Linear(6, 5, bias=False), {"input": torch.zeros(3, 6)}, LINEAR, 3 * 6 * 5),
    "linear over tokens": (nn.Linear(6, 5), {"input": torch.zeros(2, 7, 6)}, LINEAR, 2 * 7 * 6 * 5),
    "linear over strided tokens": (
        nn.Linear(6, 5),
        {"input": torch.zeros(2, 6, 7).transpose(1, 2)},
        LINEAR,
        2 * 7 * 6 * 5,
    ),
    "attention": (Attention(), HEADS, ATTENTION, 2 * 2 * 3 * 10 * 7 * 8),
    "attention written out": (OldAttention(), HEADS, ATTENTION, 2 * 2 * 3 * 10 * 7 * 8),
}


@pytest.mark.parametrize("layer", COUNTED)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_is_what_one_counts_by_hand(layer: str, device: str) -> None:
    module, inputs, kind, expected = COUNTED[layer]
    found = count_macs(module.to(device), {name: tensor.to(device) for name, tensor in inputs.items()})
    assert found.by_kind == {kind: expected}
    assert found.macs == expected
    assert found.macs_without_attention_products == (0 if kind == ATTENTION else expected)


def test_norms_activations_and_sums_are_not_counted() -> None:
    module = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU())
    assert count_macs(module, {"input": torch.zeros(1, 4, 8, 8)}).macs == 0


def test_parts_add_up_to_the_whole() -> None:
    model = tiny_unet()
    found = count_macs(model, example_inputs(input_specs("UNet2DModel", model.config), 1))
    assert sum(sum(kinds.values()) for kinds in found.by_part.values()) == found.macs
    ends, middle = ["conv_in", "conv_out", "time_embedding", "mid_block"], range(3)
    assert set(found.by_part) == {*ends, *(f"{way}_blocks.{n}" for way in ("down", "up") for n in middle)}


def test_macs_grow_with_the_batch() -> None:
    model = tiny_unet()
    specs = input_specs("UNet2DModel", model.config)
    one, three = (count_macs(model, example_inputs(specs, batch)) for batch in (1, 3))
    assert {kind: 3 * count for kind, count in one.by_kind.items()} == three.by_kind


def test_a_shared_parameter_counts_once() -> None:
    shared = nn.Linear(6, 5)
    assert count_params(nn.Sequential(shared, nn.ReLU(), shared)) == 6 * 5 + 5


ATTENTION_AT = {4: (1,), 5: (2,), 6: (4,)}
PUBLISHED = {  # sample size, widths, params, MACs in units of 1e9; all with attention at 16x16 and two layers a block
    "CIFAR-10": (32, (128, 256, 256, 256), 35_746_307, 6.222),
    "CIFAR-10 x 0.75": (32, (96, 192, 192, 192), 20_725_379, 3.533),
    "CelebA-HQ": (64, (128, 256, 256, 256, 512), 78_700_000, 24.051),
    "LSUN": (256, (128, 128, 256, 256, 512, 512), 113_673_219, 248.514),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_whole_networks_have_their_published_size(name: str) -> None:
    size, widths, params, gmacs = PUBLISHED[name]
    levels = range(len(widths))
    model = build_model(
        "UNet2DModel",
        {
            "sample_size": size,
            "block_out_channels": widths,
            "layers_per_block": 2,
            "attention_head_dim": None,
            "downsample_padding": 0,
            "time_embedding_dim": 512,  # the dense model's
            "down_block_types": tuple(
                "AttnDownBlock2D" if n in ATTENTION_AT[len(widths)] else "DownBlock2D" for n in levels
            ),
            "up_block_types": tuple(
                "AttnUpBlock2D" if n in ATTENTION_AT[len(widths)] else "UpBlock2D" for n in reversed(levels)
            ),
        },
    )
    found = count_macs(model, example_inputs(input_specs("UNet2DModel", model.config), 1, device="meta"))
    assert count_params(model) == pytest.approx(params, rel=1e-9 if params % 10_000 else 1e-3)
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=1e-3)
