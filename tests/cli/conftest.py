"""A tiny model and tiny data on disk, and the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tests.tiny import PLAIN, tiny_folder
from toolkit.cli import app
from toolkit.core.noise import generator

SETTINGS = {
    "target": "macs=0.45",
    "align": 4,
    "calibration-images": 4,
    "threshold": 0.5,
    "score-timesteps": 8,
    "steps": 2,
    "batch-size": 4,
}
FAST = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def dtk(*arguments: object) -> Answer:
    """Run the command line in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def with_a_short_loop(run: Path) -> Path:
    """The run, whose profile is to measure a loop of two steps: no option says so."""
    recipe = run / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"profile": {"loop_steps": 2}}))
    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny diffusers pipeline folder; tests that damage it work on a copy."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_folder(path, **PLAIN)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images of 8x8 RGB as .npz."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=generator("test data", 0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="session")
def compressed(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `dtk compress`; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("runs") / "run"
    answer = dtk("compress", model, "--data", data, "-o", out, *FAST)
    assert answer.code == 0, answer.err
    return out
