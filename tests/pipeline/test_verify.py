"""The stage: the dense model passes against itself, a damaged one fails, too few images decide nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.pictures import SETTINGS
from tests.tiny import tiny_folder
from toolkit.api.results import Verification
from toolkit.core.errors import UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.data.images import Images
from toolkit.evaluation import samples
from toolkit.evaluation.artefact import Artefact, SamplingSettings
from toolkit.evaluation.features import Extractor
from toolkit.evaluation.judging import Resources, Subjects
from toolkit.evaluation.settings import VerifySettings
from toolkit.models.folder import ModelFolder
from toolkit.pipeline.verify import verify

EXTRACTOR = Extractor("quarters", "0" * 64, lambda: torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()))
Models = dict[str, ModelFolder]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return {"dense": tiny_folder(folder / "dense"), "damaged": tiny_folder(folder / "damaged", seed=1)}


@pytest.fixture(scope="module")
def real(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """What the dense model would make of other noise, a little brighter: so it has an excess, and a small one."""
    plan = SamplingSettings("ddim", 2, 1000)
    made = samples.sample_images(models["dense"], plan, 60, tmp_path_factory.mktemp("cache"))
    pixels = np.minimum(made.astype(int) + 30, 255).astype(np.uint8)
    return Images("brighter", (3, 8, 8), "b" * 64, tuple(range(60)), lambda number: pixels[number])


def verified(folder: Path, models: Models, real: Images, name: str, **settings: Any) -> Verification:
    subjects = Subjects(models["dense"], models[name], real, None, EXTRACTOR)
    artefact = Artefact("torch:fp32", "torch", models[name])
    run, place = RunFolder.create(folder / "run"), Resources(folder / "run" / "cache")
    requested = VerifySettings(**({"images": 40} | settings))
    return Verification(verify(run, requested, SETTINGS, artefact, subjects, place), run.path / "verify")


def test_the_dense_model_passes_against_itself(models: Models, real: Images, tmp_path: Path) -> None:
    found = verified(tmp_path, models, real, "dense")
    assert (found.verdict, found.exit_code, found.ratio) == ("pass", 0, 1.0)
    assert "torch:fp32" in next(iter(found.tables())) and "40 pairs, 60 real images" in next(iter(found.tables()))


def test_a_damaged_model_fails(models: Models, real: Images, tmp_path: Path) -> None:
    found = verified(tmp_path, models, real, "damaged")
    assert (found.verdict, found.exit_code) == ("fail", 1)
    assert found.bounds[0] is None or found.bounds[0] > 1.05


def test_is_not_run_again_unless_what_is_tested_changed(models: Models, real: Images, tmp_path: Path) -> None:
    first = verified(tmp_path, models, real, "dense")
    written = tmp_path / "run" / "verify" / "verify.json"
    assert json.loads(written.read_text()) == first.to_json()
    before = written.stat().st_mtime_ns
    verified(tmp_path, models, real, "dense")
    assert written.stat().st_mtime_ns == before
    assert verified(tmp_path, models, real, "dense", margin="10%").to_json()["margin"] == 0.1
    assert verified(tmp_path, models, real, "damaged").verdict == "fail"


@pytest.mark.parametrize(("margin", "value"), [("5%", 0.05), ("0.2", 0.2), (0.3, 0.3), (" 12.5% ", 0.125)])
def test_margins_are_read_as_shares(margin: object, value: float) -> None:
    assert VerifySettings.model_validate({"margin": margin}).margin == pytest.approx(value)


def test_a_margin_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Cannot read the margin 'a bit'[\s\S]*5% or 0.05"):
        VerifySettings.model_validate({"margin": "a bit"})
