"""The profile stage on real models, and what stops it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import profiles.cells
import toolkit.pipeline.profile
from exporters.settings import ExportSettings
from profiles.node_parts import LEAST_CERTAIN
from profiles.settings import ProfileSettings, Rounds
from tests.tiny import SMALLEST, tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import read_json, write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.pipeline.export import export
from toolkit.pipeline.profile import profile
from toolkit.runners.torch import ChannelsLastRunner, TorchRunner

ROUNDS = Rounds(seconds=1e-9, least=6)
BASELINE = "torch-channels-last:fp32"
SETTINGS = ProfileSettings(
    runners=("torch", "onnxruntime:fp32"), batches=(1, 3), rounds=ROUNDS, device="cpu", loop_steps=2, baseline=BASELINE
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelFolder]:
    folder = tmp_path_factory.mktemp("models")
    narrow = tiny_folder(folder / "narrow", seed=1, **SMALLEST | {"block_out_channels": (8,)})
    return tiny_folder(folder / "wide", **SMALLEST), narrow


@pytest.fixture(scope="module")
def finished(
    models: tuple[ModelFolder, ModelFolder], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, Any, Any]:
    run, told = RunFolder.create(tmp_path_factory.mktemp("run")), []
    export(run, ExportSettings(loop_steps=1, loop_images=1), *models)
    return run, profile(run, SETTINGS, *models, progress=lambda *progress: told.append(progress)), told


@pytest.mark.slow
def test_counts_what_the_models_are(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder]
) -> None:
    result = finished[1]
    for name, model in zip(("dense", "compressed"), models, strict=True):
        figures = result["models"][name]
        assert figures["params"] == sum(tensor.numel() for tensor in load_denoiser(model).parameters())
        assert figures["macs"] == sum(figures["macs_by_kind"].values())
        assert 4 * figures["params"] < figures["weights_bytes"] < 4 * figures["params"] + 50_000
    for figure, ratio in result["ratios"].items():
        assert ratio == result["models"]["dense"][figure] / result["models"]["compressed"][figure] > 2


@pytest.mark.slow
def test_every_runner_is_measured_at_every_batch(finished: tuple[RunFolder, Any, Any]) -> None:
    run, result, told = finished
    assert list(result["runners"]) == ["torch", "onnxruntime:fp32"]
    for figures in result["runners"].values():
        assert figures["dtype"] == "fp32"
        assert list(figures["latency"]) == ["1", "3"]
        for latency in figures["latency"].values():
            assert latency["rounds"] == 6
            share = latency["speedup"]["value"] / result["ratios"]["macs"]
            assert latency["realised_share"] == pytest.approx(share)
            assert latency["baseline_runner"] == BASELINE
            for name in ("dense", "compressed", "baseline"):
                assert 0 < latency[name]["p50_ms"] <= latency[name]["p90_ms"] <= latency[name]["p99_ms"]
                assert latency["back_to_back"][name] > 0
        assert figures["memory"]["dense"]["batch"] == 3
        assert figures["memory"]["compressed"]["peak_rss_mib"] > 10
    assert result == read_json(run.path / "profile" / "profile.json")
    assert told == [("profile", done, 14) for done in range(15)]


@pytest.mark.slow
def test_the_whole_loop_the_start_and_the_parts_are_measured(finished: tuple[RunFolder, Any, Any]) -> None:
    result = finished[1]
    for figures in result["runners"].values():
        loop = figures["loop"]
        assert (loop["batch"], loop["steps"], loop["rounds"]) == (3, 2, 6)
        for name in ("dense", "compressed"):
            assert loop[name]["seconds_per_image"] == pytest.approx(loop[name]["p50_ms"] / 3 / 1e3)
            assert figures["open_s"][name] > 0
            assert all(cell["first_call_ms"][name] > 0 for cell in figures["latency"].values())
        assert (
            0 < loop["outside_ms_per_step"] * 2 == pytest.approx(loop["outside_share"] * loop["compressed"]["p50_ms"])
        )
    loops = {name: figures["loop"] for name, figures in result["runners"].items()}
    assert "fused" not in loops["torch"], "there is no file to run"
    fused = loops["onnxruntime:fp32"]["fused"]
    assert fused["seconds_per_image"] == pytest.approx(fused["p50_ms"] / 3 / 1e3)
    assert 0 < fused["outside_ms_per_step"] * 2 == pytest.approx(fused["outside_share"] * fused["p50_ms"])
    parts = result["parts"]
    assert {"conv_in", "down_blocks.0", "up_blocks.0", "conv_out"} <= set(parts["parts"])
    assert parts["batch"] == 3
    exported = result["runners"]["onnxruntime:fp32"]["parts"]
    assert (exported["runner"], exported["batch"]) == ("onnxruntime", 3)
    named = {"conv_in", "down_blocks.0", "up_blocks.0", "conv_out"} <= set(exported["parts"])
    assert named == (exported["certain_share"] >= LEAST_CERTAIN), "much of so small a network's time is in fused nodes"


@pytest.mark.slow
def test_the_headline_is_the_best_of_both_at_their_own_batch_sizes_in_turns(
    finished: tuple[RunFolder, Any, Any],
) -> None:
    result = finished[1]
    headline, cells = result["headline"], result["runners"]
    places = [(name, size) for name, found in cells.items() for size in found["latency"]]
    speed = {place: cells[place[0]]["latency"][place[1]]["compressed"]["images_per_s"] for place in places}
    assert max(speed, key=lambda place: speed[place]) == (headline["now"]["runner"], str(headline["now"]["batch"]))
    rows = {size: found["rows"][BASELINE]["images_per_s"] for size, found in result["baselines"]["fp32"].items()}
    assert headline["had"] == {"runner": BASELINE, "batch": int(max(rows, key=lambda size: rows[size]))}
    images = {"compressed": headline["now"]["batch"], "baseline": headline["had"]["batch"]}
    for name, batch in images.items():
        assert headline[name]["seconds_per_image"] == pytest.approx(headline[name]["p50_ms"] / batch / 1e3)
    assert headline["steps"] == 2


@pytest.mark.slow
def test_an_interrupted_profile_resumes_at_the_next_cell(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    whole = profiles.cells.compare_calls

    def interrupted(calls: Any, *rest: Any) -> Any:
        measured.append(calls["compressed"].images)
        if measured == [1, 3]:
            raise KeyboardInterrupt
        return whole(calls, *rest)

    monkeypatch.setattr(profiles.cells, "compare_calls", interrupted)
    monkeypatch.setattr(profiles.cells, "measure_memory", lambda *args, **options: {"batch": 3, "peak_rss_mib": 1.0})
    settings = SETTINGS.model_copy(update={"runners": ("torch",), "loop_steps": 0, "parts": False})
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        profile(run, settings, *models)
    result = profile(run, settings, *models)
    assert measured[:3] == [1, 3, 3] and len(measured) == 4, "batch 1 was kept, batch 3 and the headline were not"
    assert list(result["runners"]["torch"]["latency"]) == ["1", "3"]
    profile(run, settings.model_copy(update={"runners": ("torch:fp32", "torch")}), *models)
    assert len(measured) in (6, 7), "another runner's cells are added, and the headline if that one is the faster"


@pytest.mark.slow
def test_other_threads_make_other_figures(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles.cells, "measure_memory", lambda *args, **options: {"batch": 1, "peak_rss_mib": 1.0})
    settings = SETTINGS.model_copy(update={"runners": ("torch",), "batches": (1,), "loop_steps": 0, "parts": False})
    run = RunFolder.create(tmp_path / "run")
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert profile(run, settings, *models)["runners"]["torch"]["threads"] == threads


@pytest.mark.slow
def test_a_baseline_that_fails_is_said_beside_those_that_do_not(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ChannelsLastRunner, "_predict", broken)
    monkeypatch.setattr(profiles.cells, "known_runners", lambda: ["torch", "torch-channels-last"])
    monkeypatch.setattr(profiles.cells, "measure_memory", lambda *args, **options: {"batch": 1, "peak_rss_mib": 1.0})
    settings = ProfileSettings(runners=("torch",), batches=(1,), rounds=ROUNDS, loop_steps=0, parts=False)
    found = profile(RunFolder.create(tmp_path / "run"), settings, *models)["baselines"]["fp32"]["1"]
    assert found["best"] == "torch:fp32"
    assert found["rows"][BASELINE] == {"refused": "no kernel"}
    with pytest.raises(DtkError, match=rf"runner {BASELINE} failed on cpu while batch 1[\s\S]*no kernel"):
        profile(RunFolder.create(tmp_path / "other"), settings.model_copy(update={"baseline": BASELINE}), *models)


@pytest.mark.slow
def test_loop_and_parts_can_be_left_out(models: tuple[ModelFolder, ModelFolder], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"runners": ("torch",), "batches": (1,), "loop_steps": 0, "parts": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles.cells, "measure_memory", lambda *args, **options: {"batch": 1})
        result = profile(RunFolder.create(tmp_path / "run"), settings, *models)
    assert "parts" not in result
    assert "loop" not in result["runners"]["torch"]


@pytest.mark.slow
def test_a_finished_stage_is_read_not_repeated(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit.pipeline.profile, "compare_models", lambda *args: pytest.fail("measured again"))
    assert profile(finished[0], SETTINGS, *models) == finished[1]


@pytest.mark.slow
def test_an_export_of_other_models_is_refused(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder]
) -> None:
    dense, compressed = models
    with pytest.raises(DtkError, match=r"is of another dense and another compressed model[\s\S]*dtk export"):
        profile(finished[0], SETTINGS, compressed, dense)


@pytest.mark.slow
def test_engines_of_another_export_are_refused(
    finished: tuple[RunFolder, Any, Any], models: tuple[ModelFolder, ModelFolder], tmp_path: Path
) -> None:
    run = RunFolder.create(Path(shutil.copytree(finished[0].path, tmp_path / "run")))
    with run.writing(Request("tensorrt", {}, {})) as folder:
        for name in ("dense", "compressed"):
            write_json(folder / f"{name}.json", {"facts": {"onnx": "of an earlier export"}})
    with pytest.raises(DtkError, match=r"dense engine in .* is of another export[\s\S]*dtk export .* --trt"):
        profile(run, SETTINGS.model_copy(update={"runners": ("tensorrt",)}), *models)


def test_a_runner_that_reads_an_export_wants_one(models: tuple[ModelFolder, ModelFolder], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(DtkError, match=rf"no finished export stage[\s\S]*do: dtk export {run.path}"):
        profile(run, SETTINGS, *models)


def test_a_misspelt_runner_names_the_known(models: tuple[ModelFolder, ModelFolder], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown runner 'torhc'[\s\S]*torch"):
        profile(RunFolder.create(tmp_path / "run"), ProfileSettings(runners=("torhc",)), *models)


def test_a_device_that_disappears_is_said_with_the_batch_it_was_at(
    models: tuple[ModelFolder, ModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def lost(self: TorchRunner, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if len(sample) == 3 and calls > 60:
            raise RuntimeError("CUDA error: device lost\nCompile with TORCH_USE_CUDA_DSA")
        return sample

    monkeypatch.setattr(TorchRunner, "__call__", lost)
    run = RunFolder.create(tmp_path / "run")
    said = r"torch failed on cpu while batch 3 was measured[\s\S]*found: CUDA error: device lost\n[\s\S]*dtk doctor"
    with pytest.raises(DtkError, match=said):
        profile(run, SETTINGS.model_copy(update={"runners": ("torch",)}), *models)
    assert run.stage("profile") is None
    assert not (run.path / "profile").exists()


@pytest.mark.parametrize("settings", [{"runners": ()}, {"batches": ()}, {"batches": (0, 1)}, {"rounds": {"most": 3}}])
def test_settings_that_measure_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ProfileSettings(**settings)
