"""The losses that train where the settings name none."""

from __future__ import annotations

import pytest
from torch import nn

from tests.tiny import tiny_unet
from toolkit.pruning.layout import FIXED, Layout, Segment
from toolkit.pruning.plan import Plan
from toolkit.recovery.mix import DISTILLATION, comparable_blocks, default_mix


def plan(criterion: str, *tensors: str) -> Plan:
    layout = Layout({}, {name: {0: (Segment(FIXED, 1),)} for name in tensors})
    return Plan({"requested": {"criterion": criterion}}, "UNet2DModel", {}, layout, {})


@pytest.mark.parametrize(
    ("criterion", "tensors", "compiled", "wanted"),
    [
        ("diff-pruning", ["mid_block.resnets.0.conv2.weight"], False, DISTILLATION),
        ("diff-pruning", ["mid_block.resnets.0.conv2.weight"], True, {"distillation": 1.0}),
        ("random", ["conv_in.weight"], False, {"distillation": 1.0}),
        ("scratch", ["mid_block.resnets.0.conv2.weight"], False, {"noise": 1.0}),
    ],
)
def test_the_mix_fits_the_plan(criterion: str, tensors: list[str], compiled: bool, wanted: dict[str, float]) -> None:
    assert default_mix(plan(criterion, *tensors), tiny_unet(), compiled=compiled) == wanted


def test_features_are_not_compared_where_blocks_have_moved_to_other_numbers() -> None:
    dense, student = tiny_unet(layers_per_block=2), tiny_unet()
    shallower = plan("taylor", *dense.state_dict())
    assert comparable_blocks(shallower, student) == ["mid_block.resnets.0", "mid_block.resnets.1"]
    assert len(comparable_blocks(shallower, dense)) == 17


def test_a_network_without_residual_blocks_is_distilled_by_its_output() -> None:
    assert default_mix(plan("taylor", "weight"), nn.Linear(1, 1), compiled=False) == {"distillation": 1.0}
