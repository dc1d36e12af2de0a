"""The soak: it tells what differs, and kills and starves a tiny run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from benchmarks.soak import __main__ as soak
from benchmarks.soak.compare import differences, half_written
from tests.tiny import PLAIN, tiny_folder
from toolkit.core.noise import generator


def state(place: Path, weight: float = 1.0, seconds: float = 1.0, loss: float = 0.5) -> Path:
    run = place / "run"
    run.mkdir(parents=True)
    save_file({"weight": np.full(3, weight)}, run / "model.safetensors", metadata={"facts": str(seconds)})
    (run / "run.json").write_text(json.dumps({"seconds": seconds, "loss": loss, "engine": f"{run}/step.onnx"}))
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "images_per_s": seconds}) + "\n")
    (run / "picture.png").write_bytes(b"picture")
    return place


def test_times_and_places_are_no_difference(tmp_path: Path) -> None:
    assert differences(state(tmp_path / "one"), state(tmp_path / "other", seconds=2.0)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: save_file({"weight": np.full(3, 2.0)}, run / "model.safetensors"), "model.safetensors:weight"),
        (lambda run: (run / "run.json").write_text('{"loss": 0.6}'), "run.json:/loss: 0.6 instead of 0.5"),
        (lambda run: (run / "picture.png").write_bytes(b"another"), "picture.png:content"),
        (lambda run: (run / "picture.png").unlink(), "picture.png: None instead of a file"),
        (lambda run: (run / ".dtk-tmp-export.1").mkdir(), "left: "),
    ],
)
def test_whatever_else_differs_is_told(change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    one, other = state(tmp_path / "one"), state(tmp_path / "other")
    change(one / "run")
    assert any(said in text for text in differences(one, other))


@pytest.mark.parametrize("name", ["run.json", "model.safetensors"])
def test_a_half_file_is_told(name: str, tmp_path: Path) -> None:
    path = state(tmp_path / "one") / "run" / name
    assert half_written(tmp_path / "one") == []
    path.write_bytes(path.read_bytes()[:-3])
    assert half_written(tmp_path / "one") == [f"half written: {path}"]


@pytest.mark.slow
def test_a_tiny_run_ends_the_same_whatever_happens_to_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=generator("soak test", 0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8))
    recipe = {
        "model": str(tiny_folder(tmp_path / "model", **PLAIN).root),
        "data": {"source": str(tmp_path / "data.npz")},
        "device": "cpu",
        "prune": {"target": "macs=0.45", "threshold": 0.5, "score_timesteps": 8, "calibration_images": 4, "align": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--recipe", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "soak.json")]
    assert soak.main([str(tmp_path / "work"), "--kills", "1", "--faults", "1", *words]) == 0
    parts = json.loads((tmp_path / "soak.json").read_text())["parts"]
    assert list(parts) == ["prune"] and parts["prune"]["kills"] == 1 and not parts["prune"]["problems"]
