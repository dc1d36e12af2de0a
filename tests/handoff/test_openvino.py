"""A handoff whose runtime is OpenVINO: what a server runs, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from tests.handoff.asking import LEVEL, ask, client, reference
from tests.handoff.conftest import SETTINGS
from toolkit.core.errors import DtkError, MissingToolError, UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.handoff import manifest
from toolkit.handoff.dtk_server import choice
from toolkit.handoff.dtk_server.refusal import UnfitError
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import running
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.pipeline.handoff import handoff

OPENVINO = SETTINGS.model_copy(update={"runtime": "openvino"})
STEP_GRAPH = {"runtime": "openvino:bf16", "file": "step.onnx"}


@pytest.mark.slow
def test_a_real_server_computes_in_openvino(exported: RunFolder, serve_settings: ServeSettings, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(exported.path, tmp_path / "run")))
    described = handoff(run, OPENVINO)
    assert described["step_graph"]["runtime"] == "openvino"
    assert described["requires"]["openvino"] == manifest.openvino_version(OPENVINO)
    assert f'"openvino=={described["requires"]["openvino"]}"' in (run.path / "handoff" / "Dockerfile").read_text()
    with running(run.path / "handoff" / REPOSITORY, serve_settings, tmp_path / "serve.log") as server:
        images = ask(client(server), [7, 3], [5, 2])["IMAGE"]
    assert np.abs(images - np.stack([reference(7, 5), reference(3, 2)])).max() <= LEVEL


@pytest.mark.slow
def test_bfloat16_is_handed_off_only_where_it_can_be_tried(exported: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(exported.path, tmp_path / "run")))
    settings = SETTINGS.model_copy(update={"runtime": "openvino:bf16"})
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert handoff(run, settings)["expected"]["tolerance"] == manifest.TOLERANCES["bf16"]
        return
    with pytest.raises(
        DtkError, match="openvino:bf16 does not serve this model here(.|\n)*neither AMX nor AVX512-BF16"
    ):
        handoff(run, settings)


def test_what_openvino_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="OpenVINO computes on the processor(.|\n)*device gpu"):
        manifest.openvino_version(OPENVINO.model_copy(update={"device": "gpu"}))
    monkeypatch.setattr(manifest, "installed_version", lambda name: None)
    with pytest.raises(MissingToolError, match=r'needs OpenVINO(.|\n)*pip install "\.\[openvino\]"'):
        manifest.openvino_version(HandoffSettings(runtime="openvino"))


def test_onnx_runtime_takes_its_place_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(path: Path, **options: Any) -> None:
        raise UnfitError(f"no {options['dtype']} here.")

    monkeypatch.setattr(choice, "OpenVINOStepper", unfit)
    monkeypatch.setattr(choice, "OnnxRuntimeStepper", lambda path, **place: path.name)
    place: dict[str, Any] = {"image": (1, 2, 2), "batch": 1, "device": "cpu", "device_id": 0, "threads": 1}
    told: list[str] = []
    with pytest.raises(UnfitError, match=r"OpenVINO cannot serve: step\.onnx: no bf16 here\..*allows no other runtime"):
        choice.open_stepper(tmp_path, STEP_GRAPH | {"fallback": "refuse"}, told.append, **place)
    allowed = STEP_GRAPH | {"fallback": "onnxruntime"}
    assert choice.open_stepper(tmp_path, allowed, told.append, **place) == "step.onnx"
    assert "ONNX RUNTIME SERVES INSTEAD" in told[0]
