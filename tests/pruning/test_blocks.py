"""Blocks that go: the stock model without them computes what the dense one computes with them skipped."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from torch import nn

from profiles.macs import count_params
from tests.pruning.cases import count, prunable_of, random_scores
from tests.pruning.reference import silenced
from tests.tiny import text_time, tiny_conditional_unet, tiny_dit
from toolkit.adapters.base import Constraints
from toolkit.adapters.blocks import Removal, removals
from toolkit.adapters.dit import STACK
from toolkit.adapters.inputs import example_inputs, input_specs, positional
from toolkit.adapters.presets import PRESETS
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import normal
from toolkit.models.build import build_model, plain_config
from toolkit.pruning import block_order, surgery
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.cost import price
from toolkit.pruning.layout import Layout
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.prune import prunable_for
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target

T = 100
THREE = {"layers_per_block": (3, 2, 1), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")} | {
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
}


def run(model: nn.Module) -> torch.Tensor:
    inputs = example_inputs(input_specs(type(model).__name__, model.config, timesteps=T, tokens=4), batch=3)
    first, named = positional(inputs)
    with torch.no_grad():
        return model(*first, **named, return_dict=False)[0]


def ordered(prunable: Prunable, order: tuple[int, ...]) -> Prunable:
    return Prunable(prunable.class_name, prunable.config, prunable.limits, {STACK: order})


def dit_without(dense: DiTTransformer2DModel, gone: set[int]) -> DiTTransformer2DModel:
    """The dense model with blocks cut out of its list by hand."""
    model = copy.deepcopy(dense)
    embedder = model.transformer_blocks[0].norm1.emb
    model.transformer_blocks = nn.ModuleList(b for i, b in enumerate(model.transformer_blocks) if i not in gone)
    model.transformer_blocks[0].norm1.emb = embedder
    return model


@pytest.mark.parametrize("gone", [(4,), (0,), (2, 0), (1, 3, 4)])
def test_a_transformer_without_blocks_is_the_dense_one_that_skips_them(gone: tuple[int, ...]) -> None:
    dense = tiny_dit()
    prunable = ordered(prunable_of(dense), (*gone, *(i for i in range(5) if i not in gone)))
    config = prunable.space.configure((5 - len(gone),)) if len(gone) < 3 else {**prunable.config, "num_layers": 2}
    pruned, error = surgery.slice_model(dense, config, prunable.layout, {}, T, prunable.rename(config))
    assert error == 0 and pruned.config.num_layers == 5 - len(gone)
    assert torch.equal(run(pruned), run(dit_without(dense, set(gone))))
    assert not torch.allclose(run(pruned), run(dit_without(dense, {(i + 1) % 5 for i in gone})), atol=1e-3)
    assert not torch.allclose(run(pruned), run(dense), atol=1e-3)


def test_the_final_layer_keeps_its_conditioning_when_block_0_goes() -> None:
    dense = tiny_dit()
    prunable = ordered(prunable_of(dense), (0, 1, 2, 3, 4))
    config = prunable.space.configure((4,))
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, {}, T, prunable.rename(config))
    old, new = dense.state_dict(), pruned.state_dict()
    for tensor in (name for name in new if name.startswith("transformer_blocks.0.")):
        source = tensor if ".norm1.emb." in tensor else tensor.replace("blocks.0.", "blocks.1.")
        assert torch.equal(new[tensor], old[source]), tensor


def test_all_blocks_are_the_dense_model() -> None:
    dense = tiny_dit()
    prunable = prunable_of(dense)
    config = prunable.space.configure(prunable.space.dense_values)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, {}, T, prunable.rename(config))
    assert config == plain_config(dense.config)
    state = pruned.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())
    assert torch.equal(run(pruned), run(dense))


def test_a_shallower_transformer_opens_with_diffusers_alone(tmp_path) -> None:
    dense = tiny_dit()
    prunable = ordered(prunable_of(dense), (0, 2, 1, 3, 4))
    config = prunable.space.configure((3,))
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, {}, T, prunable.rename(config))
    pruned.save_pretrained(tmp_path)
    assert torch.equal(run(DiTTransformer2DModel.from_pretrained(tmp_path).eval()), run(pruned))


def naive_order(dense: DiTTransformer2DModel, calibration: Calibration, count: int) -> list[int]:
    """Cut out one block after another by hand, each time the one whose absence shows least."""

    def answers(model: nn.Module) -> torch.Tensor:
        found = []
        for t in (5, 15, 25, 35, 45, 55, 65, 75, 85, 95):  # the middles of ten equal parts of 0..99
            a = calibration.scheduler.alphas_cumprod[t]
            x = a.sqrt() * calibration.images + (1 - a).sqrt() * calibration.noise
            with torch.no_grad():
                found.append(model(x, torch.full((len(x),), t), torch.tensor([3, 7])).sample[:, :4])
        return torch.cat(found)

    wanted, gone = answers(dense), []
    for _ in range(count):
        errors = {
            block: float(((answers(dit_without(dense, {*gone, block})) - wanted) ** 2).sum())
            for block in range(5)
            if block not in gone
        }
        gone.append(min(errors, key=errors.get))
    return gone


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "batch_size"), [(0, None), (1, 1)])
def test_the_blocks_that_go_are_those_a_naive_loop_finds(seed: int, batch_size: int | None) -> None:
    dense = tiny_dit(seed)
    shape = (2, 4, 8, 8)
    images, noise = (torch.from_numpy(normal(name, seed, shape=shape)) for name in ("images", "noise"))
    labels = torch.tensor([3, 7])
    calibration = Calibration(images, noise, DDPMScheduler(num_train_timesteps=T), {"class_labels": labels})
    expected = naive_order(dense, calibration, 2)
    reports: list[tuple[int, int]] = []
    prunable, removed = block_order.ordered(
        prunable_of(dense),
        [(4,), (3,)],
        dense,
        calibration,
        lambda _, d, n: reports.append((d, n)),
        batch_size=batch_size,
    )
    assert [removal.block for removal in removed] == expected
    assert prunable.orders[STACK][:2] == tuple(expected)
    assert reports == [(done, 9) for done in range(1, 10)]
    assert 0 < removed[0].error < removed[1].error


def test_without_images_no_block_is_chosen() -> None:
    dense = tiny_dit()
    prunable = prunable_of(dense)
    with pytest.raises(DtkError, match=r"Which blocks go is tried out on images[\s\S]*--data"):
        block_order.ordered(prunable, [(4,)], dense, None)
    assert block_order.ordered(prunable, [(5,)], dense, None) == (prunable, [])


def test_a_removal_is_judged_with_the_earlier_ones_gone() -> None:
    """Blocks 1 and 2 do the same: without either nothing is lost, without both everything."""
    from toolkit.adapters.blocks import Stack

    def error(kept: dict[str, tuple[int, ...]]) -> float:
        return (5.0 if not {1, 2} & set(kept["a"]) else 0.0) + (2.0 if 3 not in kept["a"] else 0.0)

    found = list(removals({"a": Stack(4, (1, 2, 3))}, {"a": 2}, error))
    assert found == [Removal("a", 2, 0.0), Removal("a", 3, 2.0)]


@pytest.mark.slow
def test_published_size_of_dit_xl_2() -> None:
    """675 M parameters with one embedder (Peebles and Xie 2023, table 4); this class holds one per block."""
    dense = build_model("DiTTransformer2DModel", {"out_channels": 8})
    embedder = count_params(dense.transformer_blocks[0].norm1.emb)
    got = count(plain_config(dense.config), "DiTTransformer2DModel")
    assert got.params - 27 * embedder == pytest.approx(675.13e6, rel=5e-4)
    assert got.macs == pytest.approx(118.64e9, rel=1e-2)  # "118.6 Gflops" there are MACs


def test_a_transformer_is_asked_for_macs_or_params_and_not_for_width() -> None:
    prunable = prunable_of(tiny_dit())
    counted = partial(count, class_name=prunable.class_name)
    prices = price(prunable.space, counted, ("params", "macs"))
    for values in prunable.space:
        cost = counted(prunable.space.configure(values))
        assert (prices["params"](values), prices["macs"](values)) == pytest.approx((cost.params, cost.macs))
    goal = counted(prunable.space.configure((3,)))
    assert solve(prunable.space, parse_target(f"params={goal.params}"), counted).uniform == (3,)
    with pytest.raises(DtkError, match=r"widths of this model are not free[\s\S]*macs= or params="):
        solve(prunable.space, parse_target("width=0.5"), counted)
    with pytest.raises(DtkError, match=r"nearest above macs=0\.\d+ [\s\S]*allow fewer blocks with --min-width"):
        solve(prunable.space, parse_target("macs=0.3"), counted)


def unet_without(dense: UNet2DConditionModel, gone: dict[int, set[int]]) -> UNet2DConditionModel:
    """The dense model with down blocks k and the up blocks that read what ran into them cut out by hand."""
    model = copy.deepcopy(dense)
    levels = len(model.down_blocks)
    for level, blocks in gone.items():
        down, up = model.down_blocks[level], model.up_blocks[levels - 1 - level]
        size = len(down.resnets)
        for block, missing in ((down, blocks), (up, {size - k for k in blocks})):
            for part in ("resnets", "attentions"):
                if hasattr(block, part):
                    kept = [m for i, m in enumerate(getattr(block, part)) if i not in missing]
                    setattr(block, part, nn.ModuleList(kept))
    return model


@pytest.mark.parametrize("gone", [{0: {1}}, {0: {2}}, {0: {1, 2}}, {1: {1}}, {0: {1}, 1: {1}}])
def test_a_unet_without_blocks_is_the_dense_one_that_skips_them(gone: dict[int, set[int]]) -> None:
    dense = tiny_conditional_unet(**THREE)
    prunable = prunable_of(dense, blocks=True)
    kept = {
        name: tuple(i for i in range(stack.size) if "level" not in name or i not in gone.get(int(name[-1]), ()))
        for name, stack in prunable.stacks.items()
    }
    config = prunable.adapter.blocks.resized(prunable.config, {name: len(stay) for name, stay in kept.items()})
    rename = prunable.adapter.blocks.rename(prunable.config, kept)
    expected = run(unet_without(dense, gone))
    assert torch.equal(run(surgery.shallower(dense, config, rename)), expected)
    assert not torch.allclose(expected, run(dense), atol=1e-3)


@pytest.mark.slow
def test_widths_and_blocks_go_together(tmp_path) -> None:
    """Cut as far as it goes in both: equal to the dense net without the blocks, silenced but for the kept channels."""
    dense = tiny_conditional_unet(**THREE)
    prunable = prunable_of(dense, blocks=True)
    config = prunable.space.configure(min(prunable.space))
    assert config["layers_per_block"] == [2, 1, 1] and config["block_out_channels"] == [8, 16, 16]
    kept = prunable.kept(random_scores(prunable), config)
    rename = prunable.rename(config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, T, rename)
    shallow = surgery.shallower(dense, {**prunable.config, "layers_per_block": [2, 1, 1]}, rename)
    names = {tensor: rename(tensor) for tensor in prunable.layout.tensors}
    layout = Layout(prunable.layout.groups, {n: prunable.layout.tensors[t] for t, n in names.items() if n})
    expected = run(silenced(shallow, layout, kept, pruned))
    torch.testing.assert_close(run(pruned), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    pruned.save_pretrained(tmp_path)
    assert torch.equal(run(UNet2DConditionModel.from_pretrained(tmp_path).eval()), run(pruned))


@pytest.mark.slow
def test_prices_with_blocks_are_exact() -> None:
    prunable = prunable_of(tiny_conditional_unet(**THREE), blocks=True)
    counted = partial(count, class_name=prunable.class_name)
    prices = price(prunable.space, counted, ("params", "macs"))
    for values in itertools.islice(prunable.space, 0, None, 17):
        cost = counted(prunable.space.configure(values))
        assert (prices["params"](values), prices["macs"](values)) == pytest.approx((cost.params, cost.macs), rel=1e-9)


def test_all_blocks_come_before_fewer_and_a_width_target_keeps_them() -> None:
    prunable = prunable_of(tiny_conditional_unet(**THREE), blocks=True)
    counted = partial(count, class_name=prunable.class_name)
    goal = counted(prunable.space.configure((12, 24, 3, 2))).params
    assert solve(prunable.space, parse_target(f"params={goal}"), counted).uniform == (12, 24, 3, 2)
    assert solve(prunable.space, parse_target("width=0.75"), counted).uniform[2:] == (3, 2)


def test_blocks_go_only_where_they_are_asked_to() -> None:
    dense = tiny_conditional_unet(**THREE)
    assert all(variable.kind == "width" for variable in prunable_of(dense).space.variables)
    stable_diffusion = plain_config(build_model("UNet2DConditionModel", {"cross_attention_dim": 768}).config)
    prunable = Prunable("UNet2DConditionModel", stable_diffusion, Constraints(blocks=True))
    blocks = {v.name: v.choices for v in prunable.space.variables if v.kind == "blocks"}
    assert blocks == {f"blocks of level {level}": (1, 2) for level in range(4)}


CROSS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
SDXL = {**CROSS, "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True} | {
    "norm_num_groups": 2,
    "block_out_channels": (4, 8, 16),
    **text_time(6),
}
BELOW = {"down_blocks.1.attentions.0": (1,), "down_blocks.2.attentions.0": (0, 3, 9), "up_blocks.0.attentions.2": (5,)}


def sdxl_without(dense: UNet2DConditionModel, kept: Mapping[str, tuple[int, ...]]) -> UNet2DConditionModel:
    """The dense model with transformer blocks, the middle block's attention or all of it cut out by hand."""
    model = copy.deepcopy(dense)
    for name, stay in kept.items():
        if ".attentions." in name:
            attention = model.get_submodule(name)
            attention.transformer_blocks = nn.ModuleList(attention.transformer_blocks[i] for i in stay)
    middle = model.mid_block
    if not kept.get("middle block", (0,)):
        model.mid_block = None
    elif not kept.get("attention of the middle block", (0,)):
        middle.attentions, middle.resnets = nn.ModuleList(), middle.resnets[:1]
    elif "down_blocks.2.attentions.0" in kept:
        blocks = middle.attentions[0].transformer_blocks
        middle.attentions[0].transformer_blocks = nn.ModuleList(blocks[i] for i in kept["down_blocks.2.attentions.0"])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "gone",
    [BELOW, {**BELOW, "attention of the middle block": ()}, {"middle block": (), "attention of the middle block": ()}],
)
def test_sdxl_without_transformer_blocks_is_the_dense_one_that_skips_them(gone: dict, tmp_path: Path) -> None:
    """Other numbers in each attention, and a middle block that follows the first of its level."""
    dense = tiny_conditional_unet(**SDXL)
    prunable = prunable_of(dense, blocks=True)
    kept = {name: tuple(range(stack.size)) for name, stack in prunable.stacks.items()} | gone
    config = prunable.adapter.blocks.resized(prunable.config, {name: len(stay) for name, stay in kept.items()})
    rename = prunable.adapter.blocks.rename(prunable.config, kept)
    expected = run(sdxl_without(dense, gone))
    shallow = surgery.shallower(dense, config, rename)
    assert torch.equal(run(shallow), expected)
    assert not torch.allclose(expected, run(dense), atol=1e-3)
    shallow.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path).eval()
    assert torch.equal(run(again), expected)
    sizes = Prunable("UNet2DConditionModel", plain_config(again.config), Constraints(blocks=True)).stacks
    assert {name: stack.size for name, stack in sizes.items()} == {
        name: len(stay) for name, stay in kept.items() if len(stay) != 1 or "." not in name
    }


@pytest.mark.slow
def test_a_level_of_sdxl_loses_transformer_blocks_and_its_widths_together() -> None:
    dense = tiny_conditional_unet(**SDXL | {"transformer_layers_per_block": (1, 2, 3), "layers_per_block": (2, 1, 1)})
    prunable = prunable_of(dense, blocks=True)
    assert [(v.name, v.dense) for v in prunable.space.variables if v.kind == "blocks"] == [
        ("blocks of level 0", 2),
        ("transformer blocks of level 1", 2),
        ("transformer blocks of level 2", 3),
    ]
    config = prunable.space.configure((4, 8, 12, 1, 2, 2))
    assert config["transformer_layers_per_block"] == [1, 2, 2]
    assert config["reverse_transformer_layers_per_block"] is None and config["layers_per_block"] == 1
    kept = prunable.kept(random_scores(prunable), config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, T, prunable.rename(config))
    assert run(pruned).isfinite().all() and not torch.allclose(run(pruned), run(dense), atol=1e-3)
    counted = partial(count, class_name=prunable.class_name)
    prices = price(prunable.space, counted, ("params", "macs"))
    for values in list(prunable.space)[::7]:
        cost = counted(prunable.space.configure(values))
        assert (prices["params"](values), prices["macs"](values)) == pytest.approx((cost.params, cost.macs), rel=1e-9)


SD = {"layers_per_block": 2} | CROSS
FITTING = {
    "ssd-1b": SDXL,
    "segmind-vega": SDXL,
    "bk-sdm-base": {**SD, "block_out_channels": (8, 8, 16, 16)}
    | {name: (*CROSS[name], "CrossAttn" + name.split("_")[0].title() + "Block2D") for name in CROSS},
}
FITTING["bk-sdm-small"] = FITTING["bk-sdm-base"]


def test_a_preset_leaves_no_block_to_choose() -> None:
    dense = tiny_conditional_unet(**FITTING["bk-sdm-base"])
    settings = PruneSettings(preset="bk-sdm-base", blocks=True)
    with pytest.raises(UsageError, match=r"--blocks would change nothing[\s\S]*bk-sdm-base"):
        prunable_for("UNet2DConditionModel", plain_config(dense.config), settings)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_keeps_as_many_blocks_as_it_says_and_all_widths(preset: str) -> None:
    dense = tiny_conditional_unet(**FITTING[preset])
    prunable = prunable_for("UNet2DConditionModel", plain_config(dense.config), PruneSettings(preset=preset))
    (values,) = solve(prunable.space, parse_target(PruneSettings(preset=preset).target), count).finalists
    config = prunable.space.configure(values)
    assert config["block_out_channels"] == list(dense.config.block_out_channels)
    found = prunable.stack_sizes(config)
    assert {name: found[name] for name in PRESETS[preset]} == PRESETS[preset]
    smaller = run(surgery.shallower(dense, config, prunable.rename(config)))
    assert smaller.isfinite().all() and not torch.allclose(smaller, run(dense), atol=1e-3)


@pytest.mark.parametrize(
    ("preset", "model", "words"),
    [
        ("ssd-1c", SDXL, r"ssd-1c[\s\S]*ssd-1b"),
        ("ssd-1b", SD, r"ssd-1b is of another model[\s\S]*down_blocks.1.attentions.0: no such"),
        ("bk-sdm-base", SD, r"another model[\s\S]*level 3: no such stack"),
    ],
)
def test_a_preset_of_another_model_is_refused(preset: str, model: dict, words: str) -> None:
    config = plain_config(tiny_conditional_unet(**model).config)
    with pytest.raises(UsageError, match=words):
        _ = prunable_for("UNet2DConditionModel", config, PruneSettings(preset=preset)).space
    with pytest.raises(UsageError, match="another model"):
        prunable_for("DiTTransformer2DModel", plain_config(tiny_dit().config), PruneSettings(preset="ssd-1b"))
