"""The second model reaches the shares of its MACs that it is there for, and its training is a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

import toolkit
from benchmarks import colour_model
from tests.architecture.source import ROOT
from toolkit.pipeline import recipe


def test_a_third_of_its_macs_can_be_left(tmp_path: Path) -> None:
    colour_model.main(str(tmp_path / "model"))
    for fraction in (0.57, 0.3):
        plan = toolkit.plan(tmp_path / "model", target=f"macs={fraction}")
        assert plan.macs_fraction == pytest.approx(fraction, rel=0.02)


def test_its_training_keeps_every_channel_and_the_plain_loss() -> None:
    made = recipe.read(ROOT / "benchmarks" / "recipes" / "colour-train.yaml")
    assert made.recover is not None and made.recover.losses == {"noise": 1.0}
    assert (made.prune.target, made.prune.criterion) == ("width=1.0", "scratch")
