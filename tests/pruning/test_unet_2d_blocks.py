"""Blocks of UNet2DModel that go: layers of every level, attentions, the middle block; in stock configurations alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from tests.pruning.cases import UNETS, A, B, D, U, count, inputs_of, prunable_of, random_scores
from tests.pruning.reference import silenced
from tests.tiny import tiny_unet
from toolkit.adapters.unet_2d import LAYERS, MIDDLE, MIDDLE_ATTENTION
from toolkit.core.files import read_json
from toolkit.models.build import build_model, plain_config
from toolkit.pruning import surgery
from toolkit.pruning.cost import price
from toolkit.pruning.layout import Layout
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.solver import meet
from toolkit.pruning.targets import parse_target

T = 100
SHAPES: dict[str, dict[str, object]] = {
    "three-layers": {"layers_per_block": 3, "down_block_types": (D, A, D), "up_block_types": (U, B, U)},
    "attention-everywhere": {"layers_per_block": 2, "down_block_types": (A, A, A), "up_block_types": (B, B, B)},
    **{name: UNETS[name] for name in ("two-layers", "one-head", "scale-shift", "resnet-sampling", "attention-norms")},
}


class Skipped(nn.Module):
    """Stands where an attention was: what comes in goes on."""

    def forward(self, hidden: torch.Tensor, **_: object) -> torch.Tensor:
        return hidden


def computed(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs_of(model, T), return_dict=False)[0]


def cut_by_hand(dense: UNet2DModel, gone: dict[str, set[int]]) -> UNet2DModel:
    """The dense model of which forward passes by what is gone."""
    model = copy.deepcopy(dense)
    size = model.config.layers_per_block
    layers = gone.get(LAYERS, set())
    for blocks, missing in ((model.down_blocks, layers), (model.up_blocks, {size - k for k in layers})):
        for block in blocks:
            for part in ("resnets", "attentions"):
                if hasattr(block, part):
                    kept = [m for i, m in enumerate(getattr(block, part)) if i not in missing]
                    setattr(block, part, nn.ModuleList(kept))
    for name in (name for name, blocks in gone.items() if blocks):
        if name.startswith("attention of the"):
            model.mid_block.attentions = nn.ModuleList([Skipped()])
        elif name.startswith("attention of"):
            way, _, number = name.removeprefix("attention of ").split()
            block = getattr(model, f"{way}_blocks")[int(number)]
            block.attentions = nn.ModuleList(Skipped() for _ in block.attentions)
    if gone.get(MIDDLE):
        model.mid_block = None
    return model


def without(prunable: Prunable, gone: dict[str, set[int]]) -> tuple[dict, object]:
    """The configuration without some blocks, and the renaming that leads to it."""
    rules = prunable.adapter.blocks
    stacks = rules.stacks(prunable.config)
    kept = {name: tuple(i for i in range(stack.size) if i not in gone.get(name, ())) for name, stack in stacks.items()}
    config = rules.resized(prunable.config, {name: len(stay) for name, stay in kept.items()})
    return config, rules.rename(prunable.config, kept)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_unet_without_blocks_is_the_dense_one_that_passes_them_by(shape: str) -> None:
    dense = tiny_unet(**SHAPES[shape])
    prunable = prunable_of(dense, blocks=True)
    single = [{name: {block}} for name, stack in prunable.stacks.items() for block in stack.removable]
    every = {name: set(stack.removable) for name, stack in prunable.stacks.items() if name != MIDDLE_ATTENTION}
    for gone in [*single, every]:
        expected = computed(cut_by_hand(dense, gone))
        assert torch.equal(computed(surgery.shallower(dense, *without(prunable, gone))), expected), gone
        assert not torch.allclose(expected, computed(dense), atol=1e-4), gone


@pytest.mark.parametrize("middle", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_widths_and_blocks_go_together_into_a_stock_model(shape: str, middle: int, tmp_path) -> None:
    """Cut as far as it goes in both: equal to the dense net without the blocks, silenced but for the kept channels."""
    dense = tiny_unet(**SHAPES[shape])
    prunable = prunable_of(dense, blocks=True)
    assert prunable.space.variables[-1].name == MIDDLE
    config = prunable.space.configure(min(values for values in prunable.space if values[-1] == middle))
    kept = prunable.kept(random_scores(prunable), config)
    rename = prunable.rename(config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, T, rename)
    shallow_config = {**config, **{name: prunable.config[name] for name in ("block_out_channels", "freq_shift")}}
    shallow = surgery.shallower(dense, shallow_config | {"time_embedding_dim": None}, rename)
    names = {tensor: rename(tensor) for tensor in prunable.layout.tensors}
    layout = Layout(prunable.layout.groups, {n: prunable.layout.tensors[t] for t, n in names.items() if n})
    expected = computed(silenced(shallow, layout, kept, pruned))
    torch.testing.assert_close(computed(pruned), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    pruned.save_pretrained(tmp_path)
    stock = read_json(tmp_path / "config.json")
    assert (stock["mid_block_type"], stock["add_attention"]) == ((None, True), ("UNetMidBlock2D", False))[middle]
    assert torch.equal(computed(UNet2DModel.from_pretrained(tmp_path).eval()), computed(pruned))


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["within", "whole"])
@pytest.mark.parametrize(
    "shape",
    ["resnet-sampling", *(pytest.param(s, marks=pytest.mark.slow) for s in ("three-layers", "attention-everywhere"))],
)
def test_prices_with_blocks_are_exact(shape: str, groups: str) -> None:
    prunable = prunable_of(tiny_unet(**SHAPES[shape]), groups, blocks=True)
    prices = price(prunable.space, count, ("params", "macs"))
    every = list(prunable.space)
    for values in itertools.islice(every, 0, None, max(1, len(every) // 12)):
        cost = count(prunable.space.configure(values))
        assert (prices["params"](values), prices["macs"](values)) == pytest.approx((cost.params, cost.macs), rel=1e-9)


def free(prunable: Prunable) -> list[str]:
    """The stacks of which blocks may go."""
    return [variable.name for variable in prunable.space.variables if variable.kind == "blocks"]


def test_what_a_stock_configuration_can_say_is_free_and_nothing_else() -> None:
    shape = {"block_out_channels": [128, 256, 256, 256], "down_block_types": [D, A, D, D]}
    config = plain_config(build_model("UNet2DModel", {**shape, "up_block_types": [U, U, B, U]}).config)
    assert all(variable.kind == "width" for variable in prunable_of(build_model("UNet2DModel", config)).space.variables)
    prunable = prunable_of(build_model("UNet2DModel", config), blocks=True)
    attentions = ["attention of down block 1", "attention of up block 2", MIDDLE_ATTENTION]
    assert free(prunable) == [LAYERS, *attentions, MIDDLE]
    configurations = [prunable.space.configure(values) for values in prunable.space]
    distinct = {str(sorted(configuration.items())) for configuration in configurations}
    assert len(distinct) == len(configurations), "an attention of a middle block that is gone is no choice"
    bare = {**config, "layers_per_block": 1, "mid_block_type": None, "down_block_types": [D] * 4} | {
        "up_block_types": [U] * 4
    }
    assert free(prunable_of(build_model("UNet2DModel", bare), blocks=True)) == []


@pytest.mark.slow
def test_all_blocks_come_before_fewer_and_the_dense_configuration_is_unchanged() -> None:
    dense = tiny_unet(**SHAPES["attention-everywhere"])
    prunable = prunable_of(dense, blocks=True)
    assert prunable.space.configure(prunable.space.dense_values) == plain_config(dense.config)
    meeting = meet(prunable.space, parse_target("macs<=0.6"), count)
    removed = [prunable.space.removed_blocks(values) for values in meeting]
    assert removed == sorted(removed) and removed[0] == 0 < removed[-1]
