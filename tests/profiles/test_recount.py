"""A recount of another network equals its trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from profiles.macs import count_macs
from profiles.recount import Recount
from tests.pruning.cases import CASES, dense_model, prunable_of
from tests.tiny import tiny_conditional_unet, tiny_dit
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.models.build import build_model


def assert_equal_after(dense: nn.Module, config: dict) -> None:
    name = type(dense).__name__
    inputs = example_inputs(input_specs(name, dense.config, tokens=5), batch=1)
    recount = Recount(build_model(name, dense.config, "cpu"), inputs)  # where a small one is called in less time
    assert recount._is_exact
    smaller = build_model(name, config, "cpu")
    assert recount._knows(smaller)
    traced = count_macs(smaller, inputs)
    assert sum(recount(smaller).values()) == traced.macs
    if name != "DiTTransformer2DModel":  # whose final layer reaches into block 0, which a trace does not book there
        assert recount(smaller) == {part: sum(kinds.values()) for part, kinds in traced.by_part.items()}


@pytest.mark.parametrize("name", CASES)
def test_other_widths(name: str) -> None:
    dense = dense_model(name)
    prunable = prunable_of(dense)
    assert_equal_after(dense, prunable.space.configure(min(prunable.space)))


@pytest.mark.slow
def test_fewer_blocks() -> None:
    assert_equal_after(tiny_dit(), {**tiny_dit().config, "num_layers": 2})
    dense = tiny_conditional_unet(layers_per_block=2)
    assert_equal_after(dense, {**dense.config, "layers_per_block": [1, 2, 1]})


class Gram(nn.Module):
    """A product that belongs to no layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(sample)
        return hidden.T @ hidden


def test_what_is_no_layer_is_traced() -> None:
    inputs = {"sample": torch.zeros(3, 4)}
    recount = Recount(Gram(6), inputs)
    assert not recount._is_exact
    assert sum(recount(Gram(5)).values()) == sum(
        sum(kinds.values()) for kinds in count_macs(Gram(5), inputs).by_part.values()
    )
