"""Figures of several runs: side by side where they compare, refused if they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.pictures import SETTINGS, pictures
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.evaluation.features import Extractor
from toolkit.pipeline.evaluate import evaluate
from toolkit.report.comparison import compare_evaluations


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory):
    """Makes a run whose evaluation has finished, of a compressed model with its own seed."""
    import torch

    root = tmp_path_factory.mktemp("runs")
    dense = tiny_folder(root / "dense")
    network = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())

    def make(name: str, seed: int = 1, sha256: str = "0" * 64, reference: int = 0, **changes: object) -> RunFolder:
        compressed = tiny_folder(root / f"{name}-model", seed=seed, block_out_channels=(8, 16, 16))
        run = RunFolder.create(root / name)
        settings = SETTINGS.model_copy(update=changes)
        extractor = Extractor("quarters", sha256, lambda: network)
        evaluate(run, settings, dense, compressed, pictures(30, seed=reference), extractor=extractor)
        return run

    return make


@pytest.fixture(scope="module")
def first(evaluated) -> RunFolder:
    return evaluated("one")


@pytest.mark.slow
def test_differences_are_to_the_first_run(evaluated, first: RunFolder) -> None:
    found = compare_evaluations([first, evaluated("two", seed=2, sampling_steps=3)])
    assert [run["sampling_steps"] for run in found["runs"]] == [2, 3]
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert row["differences"] == [row["values"][1] - row["values"][0]]
    assert found["rows"][0]["differences"] != [0.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 10}, "count 10 against 12"),
        ({"sha256": "1" * 64}, "extractor_sha256"),
        ({"reference": 5}, "reference_sha256"),
    ],
)
def test_figures_that_were_measured_otherwise_are_refused(
    evaluated, first: RunFolder, change: dict, words: str
) -> None:
    with pytest.raises(DtkError, match="These figures cannot be compared") as error:
        compare_evaluations([first, evaluated(f"with other {next(iter(change))}", **change)])
    assert words in str(error.value)


def test_a_run_without_an_evaluation_and_a_run_twice(first: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="has no finished evaluate stage"):
        compare_evaluations([first, RunFolder.create(tmp_path / "empty")])
    with pytest.raises(UsageError, match="named twice"):
        compare_evaluations([first, first])
