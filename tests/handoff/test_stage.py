"""The stage on the embedded default's step graph."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.handoff.asking import LEVEL, reference
from tests.handoff.conftest import SETTINGS
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, folder_sha256, write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.pipeline import handoff as stage
from toolkit.pipeline.handoff import batch_limit, check_steps, handoff, resolve_steps


@pytest.mark.slow
def test_the_manifest_lists_every_file_and_the_known_image(handed_off: RunFolder) -> None:
    folder = handed_off.path / "handoff"
    manifest = handoff(handed_off, SETTINGS)
    own = [name for name in folder_sha256(folder) if name.endswith("handoff.json")]
    assert set(manifest["files"]) == set(folder_sha256(folder)) - set(own)
    assert all(file_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items())
    assert len(own) == 2 and len({file_sha256(folder / name) for name in own}) == 1
    known = np.load(folder / manifest["expected"]["file"], allow_pickle=False)
    assert np.abs(known / 255 - reference(0, 20)).max() <= LEVEL
    picture = np.asarray(Image.open((folder / manifest["expected"]["file"]).with_suffix(".png")))
    assert np.array_equal(picture, known[0])


@pytest.mark.slow
def test_a_finished_handoff_is_read_not_repeated(handed_off: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in (handed_off.path / "handoff").rglob("*")}
    calls: list[str] = []
    handoff(handed_off, SETTINGS, progress=lambda work, done, total: calls.append(work))
    assert not calls and before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_the_code_that_a_server_gets_is_part_of_what_is_requested(
    handed_off: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a handoff would keep the code of an earlier dtk."""
    hashed: list[Path] = []

    def noting(path: Path, *others: object) -> str:
        hashed.append(path)
        return "other code"

    before = handed_off.path / "handoff"
    code = {path.name for path in before.rglob("dtk_server/*.py")}
    for name in ("folder_sha256", "file_sha256"):
        monkeypatch.setattr(stage, name, noting)
    monkeypatch.setattr(RunFolder, "is_current", lambda run, request: request.inputs["server"] and hashed)
    handoff(handed_off, SETTINGS)
    assert code <= {path.name for place in hashed for path in (place.rglob("*.py") if place.is_dir() else [place])}


@pytest.mark.slow
def test_the_files_around_it_are_filled_in(handed_off: RunFolder) -> None:
    folder = handed_off.path / "handoff"
    for name in ("README.md", "Dockerfile", "compose.yaml", "kubernetes.yaml"):
        assert not re.search(r"\$\w", (folder / name).read_text()), name
    kinds = [document["kind"] for document in yaml.safe_load_all((folder / "kubernetes.yaml").read_text())]
    assert kinds == ["Deployment", "Service"]
    assert yaml.safe_load((folder / "compose.yaml").read_text())["services"][SETTINGS.name]["build"] == "."


@pytest.mark.slow
def test_the_server_side_imports_neither_torch_nor_diffusers_nor_dtk(handed_off: RunFolder) -> None:
    version = handed_off.path / "handoff" / "model_repository" / SETTINGS.name / "1"
    code = (
        "import sys; import dtk_server.serving, dtk_server.noise, dtk_server.manifest; "
        "print({'torch', 'diffusers', 'toolkit', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=version, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_changed_graph_is_refused(exported: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(exported.path, tmp_path / "run")))
    with (run.path / "export" / "onnx" / "compressed_step.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(DtkError, match=r"compressed_step\.onnx is damaged or was changed"):
        handoff(run, SETTINGS)


def test_a_run_without_an_export_is_told_what_to_do(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(DtkError, match="no finished export stage.*(\n.*)*dtk export"):
        handoff(run, SETTINGS)


def test_an_export_without_a_step_graph_is_told_what_to_do(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    with run.writing(Request("export", {}, {"compressed": "0" * 64})):
        pass
    with pytest.raises(DtkError, match="no exported step graph"):
        handoff(run, SETTINGS)


def test_a_refiner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compressed_step.onnx"
    path.write_bytes(b"graph")
    inputs = {"sample": {"shape": ["batch", 4, 8, 8]}, "time_ids": {"shape": ["batch", 5]}}
    write_json(path.with_suffix(".json"), {"inputs": inputs, "sha256": {path.name: file_sha256(path)}})
    with pytest.raises(DtkError, match=r"a refiner goes on from the latents[\s\S]*time_ids of 5 numbers"):
        StepGraph.read(path)


@pytest.mark.parametrize(("exported_max", "pixels", "batch"), [(None, 2**26, 8), (4, 2**26, 4), (64, 3 * 256, 3)])
def test_the_batch_is_the_tightest_limit(exported_max: int | None, pixels: int, batch: int) -> None:
    assert batch_limit(HandoffSettings(max_pixels=pixels), (1, 16, 16), exported_max) == batch


def test_an_image_larger_than_the_pixels_allowed_is_refused() -> None:
    with pytest.raises(UsageError, match="16x16 has more pixels.*(\n.*)*at least 256"):
        batch_limit(HandoffSettings(max_pixels=255), (1, 16, 16), None)


def test_a_taught_model_is_served_in_its_own_steps() -> None:
    every = {str(steps): {} for steps in range(1, 101)}
    graph = StepGraph(Path("step.onnx"), {"taught": [4], "schedules": {n: {} for n in every if n != "20"}})
    settings = resolve_steps(HandoffSettings(), graph)
    assert (settings.default_steps, settings.max_steps, list(graph.served(settings))) == (4, 4, [4])
    anything = resolve_steps(HandoffSettings(any_steps=True, default_steps=7), graph)
    assert (anything.default_steps, anything.max_steps) == (7, 100)
    assert [n for n in range(1, 101) if n not in graph.served(anything)] == [20]
    few = StepGraph(Path("step.onnx"), {"taught": [4], "schedules": {"2": {}, "4": {}, "98": {}}})
    assert resolve_steps(HandoffSettings(any_steps=True), few).max_steps == 98, "the limit is what there is a table for"
    untaught = resolve_steps(HandoffSettings(max_steps=200), StepGraph(Path("step.onnx"), {"schedules": every}))
    assert (untaught.default_steps, untaught.max_steps) == (20, 200), "which check_steps refuses"
    with pytest.raises(UsageError, match=r"not taught to sample in 20 steps[\s\S]*leave out --default-steps$"):
        resolve_steps(HandoffSettings(any_steps=True, default_steps=20), graph)
    with pytest.raises(UsageError, match=r"not taught to sample in 7 steps[\s\S]*taught: 4[\s\S]*--any-steps"):
        resolve_steps(HandoffSettings(default_steps=7), graph)


@pytest.mark.parametrize(("default", "most"), [(30, 20), (20, 1001)])
def test_limits_of_steps_that_contradict_are_refused(default: int, most: int) -> None:
    with pytest.raises(UsageError, match="contradict"):
        check_steps(HandoffSettings(default_steps=default, max_steps=most), longest=1000)
