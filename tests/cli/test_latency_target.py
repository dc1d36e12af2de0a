"""A target in latency from the command line to the pruned model, on tiny real models; no figure of time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.latency_table import Timing
from tests.cli.conftest import dtk
from tests.tiny import PLAIN, tiny_folder
from toolkit.core.files import read_json
from toolkit.models.build import full_config, load_denoiser
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.pruning.latency import latencies
from toolkit.pruning.settings import LatencySettings

FAST = LatencySettings(runner="torch", batch=2, seconds=1e-9)

BRIEF = ["--calibration-images", 4, "--score-timesteps", 8, "--threshold", 0.5, "--no-recover"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def by_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that needs no time: latency goes with the parameters of the second network."""
    monkeypatch.setattr("profiles.latency_table.compare", _by_params)


def _by_params(dense, other, inputs, rounds) -> Timing:
    counts = [sum(p.numel() for p in runner._denoiser.parameters()) for runner in (dense, other)]
    assert other(**inputs).shape == inputs["sample"].shape
    fraction = counts[1] / counts[0]
    return Timing(10.0, 10 * fraction, fraction, fraction, fraction, 11)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_any_configuration_and_the_model_itself_can_be_measured(runner: str, tmp_path: Path) -> None:
    dense = tiny_folder(tmp_path / "model", **PLAIN)
    settings = FAST.model_copy(update={"runner": runner})
    narrow = {**full_config(dense), "block_out_channels": [8, 16]}
    specs = denoiser_inputs(dense)
    with latencies(dense.class_name, full_config(dense), specs, settings, "cpu") as found:
        timing = found.measure(narrow)
        again = found.check(load_denoiser(dense))
    for one in (timing, again):
        assert 0 < one.low <= one.fraction <= one.high
        assert one.dense_ms > 0 and one.ms > 0


@pytest.mark.slow
def test_compress_to_a_latency(dense: ModelFolder, data: Path, tmp_path: Path, by_width: None) -> None:
    target = ["--target", "latency=0.55", "--runner", "torch", "--batch", 2, "--align", 4, "--device", "cpu"]
    planned = dtk("compress", dense.root, *target, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert planned.json["latency"]["fraction"] == pytest.approx(0.55, rel=0.05)
    done = dtk("compress", dense.root, "--data", data, "-o", tmp_path / "run", *target, *BRIEF, "--json")
    assert done.code == 0, done.err
    found = done.json["stages"]["prune"]
    latency = found["latency"]
    assert latency["fraction"] == pytest.approx(found["achieved"]["params_fraction"]), (
        "the pruned model itself was measured"
    )
    assert latency["fraction"] == pytest.approx(0.55, rel=0.05)
    assert (latency["runner"], latency["batch"], latency["missed"]) == ("torch", 2, None)
    assert found == {k: v for k, v in read_json(tmp_path / "run/prune/plan.json").items() if k in found}
    table = dtk("compress", dense.root, *target, "--dry-run")
    assert "torch, batch 2" in table.out and "5.49 ms" in table.out


@pytest.mark.slow
def test_bounds_on_latency_and_size_reach_the_plan(
    dense: ModelFolder, data: Path, tmp_path: Path, by_width: None
) -> None:
    """The same bounds on the command line, in a recipe and in a dry run; here latency goes with the parameters."""
    target = ["--target", "latency<=0.55,macs<=0.5", "--runner", "torch", "--batch", 2, "--align", 4, "--device", "cpu"]
    planned = dtk("compress", dense.root, *target, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    done = dtk("compress", dense.root, "--data", data, "-o", tmp_path / "run", *target, *BRIEF, "--json")
    assert done.code == 0, done.err
    again = dtk("run", tmp_path / "run" / "recipe.yaml", "-o", tmp_path / "again", "--json")
    plans = [planned.json, done.json["stages"]["prune"], again.json["stages"]["prune"]]
    for plan in plans:
        latency, macs = plan["bounds"]
        assert (latency["bound"], latency["requested"], macs["requested"]) == ("latency<=0.55", 0.55, 0.5)
        assert latency["achieved"] == plan["latency"]["fraction"] == pytest.approx(plan["achieved"]["params_fraction"])
        assert macs["achieved"] == plan["achieved"]["macs_fraction"]
        assert latency["achieved"] <= 0.55 and macs["achieved"] <= 0.5
    assert plans[1]["widths"] == plans[2]["widths"] and plans[1]["latency"]["missed"] is None


@pytest.mark.slow
def test_a_model_that_misses_when_measured_again_is_told(
    dense: ModelFolder, data: Path, tmp_path: Path, by_width: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Timing(10.0, 8.0, 0.8, 0.8, 0.8, 11)
    monkeypatch.setattr("toolkit.pruning.latency.Latencies.check", lambda self, network: slow)
    target = ["--target", "latency=0.55", "--runner", "torch", "--batch", 2, "--align", 4, "--device", "cpu"]
    done = dtk("compress", dense.root, "--data", data, "-o", tmp_path / "run", *target, *BRIEF)
    assert done.code == 0, done.err
    assert "takes 0.800 of dense and not 0.55 (+45.5%)" in done.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--target", "macs=0.5", "--batch", 4], 2, "--batch would change nothing"),
        (["--target", "latency=0.5", "--runner", "torhc"], 2, "Unknown runner 'torhc'"),
        (["--target", "latency=0.5", "--runner", "cudagraph"], 3, "NVIDIA GPU"),
        (["--target", "latency=0.5", "--batch", 0], 2, "batch"),
        (["--target", "macs<=0.5,params<=0.5", "--batch", 4], 2, "--batch would change nothing"),
        (["--target", "latency<=0.3,params=0.9", "--runner", "torch"], 1, "contradict each other"),
        (["--target", "latency=0.01", "--runner", "torch"], 1, "nearest below none, nearest above latency=0.2"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    dense: ModelFolder, by_width: None, options: list, code: int, words: str
) -> None:
    answer = dtk("compress", dense.root, "--device", "cpu", *options, "--dry-run")
    assert answer.code == code
    assert words in answer.err
