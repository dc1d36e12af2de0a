"""Pruning in rounds leaves what pruning the dense model at once with the plan of the last round leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.pruning.cases import QUICK, dense_model, prunable_of, random_scores
from tests.tiny import TWO_LEVELS, tiny_dit, tiny_folder, tiny_unet
from toolkit import compress
from toolkit.core.errors import UnreachableError, UsageError
from toolkit.core.noise import generator
from toolkit.pruning import surgery
from toolkit.pruning.plan import Plan, read_plan
from toolkit.pruning.rounds import Earlier, earlier_targets
from toolkit.pruning.scoring import Scored

T = 100


def halfway(name: str) -> tuple[Earlier, torch.nn.Module]:
    """A round that removes about half of what can go, and its model, not recovered."""
    dense = dense_model(name)
    prunable = prunable_of(dense)
    values = sorted(prunable.space)[len(list(prunable.space)) // 2]
    config = prunable.space.configure(values)
    kept = prunable.kept(random_scores(prunable), config)
    widths = [{"achieved": value} for value in values]
    plan = Plan({"widths": widths}, prunable.class_name, config, prunable.layout, kept)
    return Earlier(plan, prunable), surgery.slice_model(dense, config, prunable.layout, kept, T)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_two_slices_are_one(name: str) -> None:
    """The last plan alone makes the same tensors of the dense model; the time embedding is fitted twice, so nearly."""
    earlier, model = halfway(name)
    assert {group: g.size for group, g in earlier.layout.groups.items()} == {
        group: len(kept) for group, kept in earlier.plan.kept.items()
    }
    own = {group: generator("round", 0, i).random(g.size) for i, (group, g) in enumerate(earlier.layout.groups.items())}
    scores = earlier.of_dense({0.0: Scored(own, {}, (own, own))})[0.0]
    config = earlier.further.space.configure(min(earlier.further.space))
    kept = earlier.further.kept(scores.scores, config)
    assert all(set(kept[group]) <= set(before) for group, before in earlier.plan.kept.items())
    twice, _ = surgery.slice_model(model, config, earlier.layout, earlier.of_now(kept), T)
    once, _ = surgery.slice_model(dense_model(name), config, earlier.further.layout, kept, T)
    state = twice.state_dict()
    for tensor, expected in once.state_dict().items():
        allowed = 1e-2 if tensor.startswith("time_embedding.linear_1") else 1e-6
        torch.testing.assert_close(state[tensor], expected, rtol=allowed, atol=allowed, msg=tensor)


@pytest.mark.parametrize("shape", [{}, {"attention_head_dim": None}, {"block_out_channels": (16, 16, 32)}])
def test_a_channel_that_has_gone_never_comes_back(shape: dict[str, Any]) -> None:
    """Neither where nothing that is left has a score, nor where its widths divide the channels otherwise."""
    prunable = prunable_of(tiny_unet(**shape))
    for first in prunable.space:
        config = prunable.space.configure(first)
        kept = prunable.kept(random_scores(prunable), config)
        plan = Plan({"widths": [{"achieved": v} for v in first]}, "UNet2DModel", config, prunable.layout, kept)
        earlier = Earlier(plan, prunable)
        scored = {group: generator("round", 1).random(len(left)) for group, left in kept.items()}
        for own in (scored, {group: np.zeros(len(left)) for group, left in kept.items()}):
            scores = earlier.of_dense({0.0: Scored(own, {})})[0.0].scores
            for second in earlier.further.space:
                config = earlier.further.space.configure(second)
                sizes, again = earlier.further.sizes(config), earlier.further.kept(scores, config)
                for group, left in kept.items():
                    assert set(again[group]) <= set(left) and len(again[group]) == sizes[group], (first, second, group)


@pytest.mark.parametrize(
    ("target", "count", "expected"),
    [
        ("macs=0.27", 3, ["macs<=0.64633", "macs<=0.417743"]),
        ("latency<=0.25,params=0.81", 2, ["latency<=0.5,params<=0.9"]),
    ],
)
def test_every_round_takes_an_equal_share(target: str, count: int, expected: list[str]) -> None:
    assert earlier_targets(target, count) == expected


def test_rounds_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    dense, dit = tiny_folder(tmp_path / "dense").root, tmp_path / "dit"
    tiny_dit().save_pretrained(dit / "transformer")
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (dense, {"blocks": True}, "rounds prune widths and recover"),
        (dense, {"recover": False}, "rounds prune widths and recover"),
        (dense, {"steps": 0, "sampling_steps": 4}, "rounds prune widths and recover"),
        (dense, {"target": "params<=2k"}, r"divide a fraction[\s\S]*found: 2 rounds and the bound params<=2k"),
        (
            dense,
            {"rounds": ["params<=0.6"]},
            r"another figure than the target[\s\S]*found: params<=0.6; target macs=0.57",
        ),
        (dense, {"rounds": 0}, "greater than or equal to 1"),
        (dit, {}, r"only by blocks[\s\S]*found: DiTTransformer2DModel"),
    ]
    for model, options, words in refused:
        with pytest.raises(UsageError, match=words):
            compress(model, out=tmp_path / "run", **({"rounds": 2} | options))
        assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_target_out_of_reach_is_refused_before_a_round_is_recovered(tmp_path: Path) -> None:
    dense = tiny_folder(tmp_path / "dense", **TWO_LEVELS).root
    images = generator("rounds", 0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    few: dict[str, Any] = {"criterion": "magnitude", "calibration_images": 2, "batch_size": 4, "align": 4}
    with pytest.raises(UnreachableError, match="macs within 2% of"):
        compress(dense, data=images, out=tmp_path / "run", target="macs=1", rounds=["macs<=0.4"], **few)
    assert not (tmp_path / "run" / "rounds" / "1" / "recover").exists()


@pytest.mark.slow
def test_a_run_in_rounds_is_one_plan_and_resumes(tmp_path: Path) -> None:
    dense = tiny_folder(tmp_path / "dense", **TWO_LEVELS).root
    images = generator("rounds", 0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    few = {"calibration_images": 2, "score_timesteps": 2, "steps": 3, "batch_size": 4, "align": 4, "min_width": 0.25}

    def run() -> dict[str, str]:
        compress(dense, data=images, out=tmp_path / "run", target="macs<=0.4", rounds=2, **few)  # type: ignore[arg-type]
        folders = [tmp_path / "run" / "rounds" / "1", tmp_path / "run"]
        return {str(path): path.read_bytes().hex() for folder in folders for path in folder.glob("model/unet/*")}

    first = run()
    plans = [read_plan(tmp_path / "run" / place / "prune" / "plan.json") for place in ("rounds/1", ".")]
    fractions = [plan.facts["achieved"]["macs_fraction"] for plan in plans]
    assert fractions[1] <= 0.4 < fractions[0] <= 0.4**0.5
    assert all(set(plans[1].kept[group]) <= set(kept) for group, kept in plans[0].kept.items())
    assert plans[1].facts["dense"] == plans[0].facts["dense"]
    assert run() == first, "nothing was done again"
