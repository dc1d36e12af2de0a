"""Targets are met, over stock configurations, or refused with the nearest ones."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.cases import CASES, A, D, U, count, dense_model, inputs_of, prunable_of
from tests.pruning.published import PUBLISHED
from tests.tiny import tiny_conditional_unet, tiny_unet
from toolkit.adapters.base import Constraints
from toolkit.core.errors import DtkError, UnreachableError, UsageError
from toolkit.core.noise import generator
from toolkit.models.build import build_model, plain_config
from toolkit.pruning.cost import price
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.solver import largest, meet, solve
from toolkit.pruning.targets import TOLERANCE, parse_target, split_targets

WIDE = Constraints(align=4, least=0.25)


def published(name: str) -> dict:
    return plain_config(build_model("UNet2DModel", PUBLISHED[name][0]).config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    dense_params, dense_macs, params, macs = PUBLISHED[name][1]
    prunable = Prunable("UNet2DModel", published(name), Constraints())
    values = solve(prunable.space, parse_target("width=0.75"), count).uniform
    dense, got = count(prunable.config), count(prunable.space.configure(values))
    assert dense.params == pytest.approx(dense_params, rel=1e-4) and dense.macs == pytest.approx(dense_macs, rel=1e-4)
    assert got.params == params and got.macs == pytest.approx(macs, rel=1e-4)


@pytest.mark.parametrize("groups", ["within", "whole"])
@pytest.mark.parametrize("name", CASES)
def test_prices_are_exact_for_every_configuration(name: str, groups: str) -> None:
    prunable = prunable_of(dense_model(name), groups)
    counted = partial(count, class_name=prunable.class_name)
    prices = price(prunable.space, counted, ("params", "macs"))
    for values in list(prunable.space)[::3]:
        cost = counted(prunable.space.configure(values))
        assert prices["params"](values) == pytest.approx(cost.params, rel=1e-9)
        assert prices["macs"](values) == pytest.approx(cost.macs, rel=1e-9)


@given(figure=st.sampled_from(["macs", "params"]), fraction=st.floats(0.2, 1.0))
@settings(max_examples=15, deadline=None)
def test_a_target_is_met_or_the_nearest_are_named(figure: str, fraction: float) -> None:
    prunable = Prunable("UNet2DModel", plain_config(tiny_unet().config), Constraints(align=4))
    dense = count(prunable.config)
    try:
        values = solve(prunable.space, parse_target(f"{figure}={fraction}"), count).uniform
    except DtkError as error:
        assert "nearest below" in str(error) and "nearest above" in str(error)
        costs = [count(prunable.space.configure(v))[figure] for v in prunable.space]
        assert not any(abs(c - fraction * dense[figure]) <= TOLERANCE * fraction * dense[figure] for c in costs)
    else:
        got = count(prunable.space.configure(values))[figure]
        assert abs(got - fraction * dense[figure]) <= TOLERANCE * fraction * dense[figure] * 1.0001


BOUNDS = [
    "macs<=0.6",
    "params<=0.5",
    "width<=0.75",
    "macs<=0.7,params<=0.5",
    "macs=0.57,params<=0.6",
    "width=0.5,macs<=1",
]


@pytest.mark.parametrize("text", BOUNDS)
def test_bounds_are_met_by_the_largest_that_meet_them(text: str) -> None:
    """Against every configuration counted: what is refused is too large, or smaller than one that is taken."""
    prunable = Prunable("UNet2DModel", plain_config(tiny_unet(block_out_channels=(32, 64, 64)).config), WIDE)
    target, dense = parse_target(text), count(prunable.config)

    def meets(values: tuple[int, ...]) -> bool:
        cost = count(prunable.space.configure(values))
        widest = max(value / variable.dense for value, variable in zip(values, prunable.space.variables, strict=True))
        figures = {"macs": (cost.macs, dense.macs), "params": (cost.params, dense.params), "width": (widest, 1.0)}
        return all(bound.met_by(*figures[bound.figure]) for bound in target.bounds)

    meeting = meet(prunable.space, target, count)
    every = [values for values in prunable.space if meets(values)]
    assert set(meeting) <= set(every) and len(every) < len(list(prunable.space))
    for values in set(every) - set(meeting):
        assert any(values != other and np.all(np.array(other) >= values) for other in meeting), values
    only_upper = "=" not in text.replace("<=", "")
    pairs = itertools.permutations(meeting, 2)
    assert not only_upper or not any(np.all(np.array(one) >= other) for one, other in pairs), "one is idle"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "macs<=0.03",
            r"has macs at most [\d,]+\.[\s\S]*nearest below none, nearest above macs=0\.\d+[\s\S]*--min-width",
        ),
        (
            "macs<=0.3,params=0.9",
            r"macs<=0\.3 and params=0\.9 contradict each other[\s\S]*"
            r"with params=0\.9 the nearest macs is 0\.\d+ [\s\S]*with macs<=0\.3 the nearest params is 0\.\d+",
        ),
        ("width=0.75,macs<=0.3", r"No stock configuration with width=0\.75 has macs at most"),
        ("macs=0.1,params<=0.9", r"has macs within 2% of"),
        (
            "macs=0.9",
            r"nearest below macs=0\.\d+[\s\S]*nearest above macs=1\.0000[\s\S]*allow narrower levels with --min-width",
        ),
    ],
)
def test_bounds_that_cannot_be_met_are_refused_in_words(text: str, words: str) -> None:
    prunable = Prunable("UNet2DModel", plain_config(tiny_unet(block_out_channels=(32, 64, 64)).config), WIDE)
    with pytest.raises(UnreachableError, match=words):
        meet(prunable.space, parse_target(text), count)


def test_only_the_largest_are_worth_trying() -> None:
    draw = generator("largest", 0)
    every = [tuple(int(v) for v in row) for row in draw.integers(1, 9, size=(25, 3))]
    naive = {v for v in every if not any(w != v and all(a >= b for a, b in zip(w, v, strict=True)) for w in every)}
    assert set(largest(every)) == naive and 1 < len(naive) < len(set(every))


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("latency=0.8, latency=0.6", ["latency=0.8", "latency=0.6"]),
        ("latency<=0.6,params<=0.7; macs=0.5", ["latency<=0.6,params<=0.7", "macs=0.5"]),
        ("latency<=0.6,params<=0.7;", ["latency<=0.6,params<=0.7"]),
    ],
)
def test_targets_of_a_sweep_are_told_from_bounds(text: str, targets: list[str]) -> None:
    assert split_targets(text) == targets


def test_published_size_of_ldm_4() -> None:
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    config = {
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 2,
        "cross_attention_dim": 512,
        "attention_head_dim": 1,
        "block_out_channels": (192, 384, 576, 960),
        "down_block_types": (D, down, down, down),
        "up_block_types": (up, up, up, U),
    }
    dense = count(config, "UNet2DConditionModel", tokens=1)
    assert dense.params == pytest.approx(400.92e6, rel=1e-4) and dense.macs == pytest.approx(104.227e9, rel=1e-4)


def test_levels_keep_their_equalities() -> None:
    prunable = Prunable("UNet2DModel", published("lsun-256"), Constraints())
    for values in prunable.space:
        widths = prunable.space.configure(values)["block_out_channels"]
        assert widths[0] == widths[1] != widths[2] == widths[3] != widths[4] == widths[5]
        assert all(width % 32 == 0 for width in widths)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flops=0.5", "Unknown target 'flops'[\\s\\S]*macs, params, width"),
        ("macs", "figure=value"),
        ("macs=fast", "figure=value"),
        ("macs=1.2.3", "Cannot read the number"),
        ("width=2", "out of range"),
        ("macs=0", "out of range"),
        ("macs<0.5", "figure=value or figure<=value"),
        ("macs>=0.5", "figure=value or figure<=value"),
        ("macs<=0.5,", "Cannot read the target ''"),
        ("macs<=0.5,params=0.5,macs=0.6", "bounds macs twice"),
    ],
)
def test_bad_targets_are_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_target(text)


def test_absolute_targets_carry_a_unit() -> None:
    goals = {"params=20M": 20e6, "macs=3.4G": 3.4e9, "macs=0.5": 5e8, "macs <= 0.5": 5e8}
    assert {text: parse_target(text).bounds[0].goal(1e9) for text in goals} == goals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm_num_groups": 5, "block_out_channels": (16, 32, 32)}, "norm groups do not divide"),
        ({"down_block_types": ("SkipDownBlock2D", D, A)}, "SkipDownBlock2D"),
        ({"time_embedding_type": "fourier"}, "cannot narrow this time embedding"),
        ({"time_embedding_type": "learned"}, "cannot narrow this time embedding"),
        ({"class_embed_type": "timestep"}, "cannot narrow this time embedding"),
    ],
)
def test_variants_that_cannot_be_followed_are_refused(change: dict, words: str) -> None:
    config = plain_config(tiny_unet().config) | change
    with pytest.raises(DtkError, match=words):
        _ = Prunable("UNet2DModel", config, Constraints()).space


def test_an_added_embedding_of_another_kind_is_refused() -> None:
    config = plain_config(tiny_conditional_unet().config) | {"addition_embed_type": "text_image"}
    with pytest.raises(DtkError, match=r"variant of UNet2DConditionModel[\s\S]*addition_embed_type 'text_image'"):
        _ = Prunable("UNet2DConditionModel", config, Constraints()).space


@pytest.mark.parametrize("fraction", [0.49, 0.1])
def test_less_than_a_level_may_have_is_refused_and_the_least_is_named(fraction: float) -> None:
    prunable = Prunable("UNet2DModel", published("cifar10-32"), Constraints(least=0.5 if fraction == 0.1 else 0.9))
    with pytest.raises(DtkError, match=r"narrower than a level[\s\S]*level 0: [\d.]+ of 128[\s\S]*steps of 32"):
        solve(prunable.space, parse_target(f"width={fraction}"), count)


@pytest.mark.parametrize("name", ["one-head", "heads", "context", "linear-projections"])
def test_both_attention_processors_agree_after_pruning(name: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    from tests.pruning.cases import random_scores
    from toolkit.pruning import surgery

    dense = dense_model(name)
    prunable = prunable_of(dense)
    config = prunable.space.configure(min(prunable.space))
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, prunable.kept(random_scores(prunable), config), 100)
    inputs = inputs_of(dense)
    outputs = []
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        for module in pruned.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(processor)
        with torch.no_grad():
            outputs.append(pruned(**inputs).sample)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
