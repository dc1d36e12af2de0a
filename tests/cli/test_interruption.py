"""Ctrl-C, kill -9 and a full disk in every stage: nothing is lost, and the same command continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests import forked
from tests.tiny import PLAIN, tiny_folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = {
    "prune": {"target": "macs=0.45", "threshold": 0.5, "score_timesteps": 8, "calibration_images": 4, "align": 4},
    "recover": {"steps": 40, "batch_size": 8, "checkpoint_every": 10},
    "evaluate": {"images": 24, "sampling_steps": 2},
    "export": {"loop_steps": 2, "batch": "1:2:4", "opset": 21},
    "profile": {
        "runners": ["onnxruntime"],
        "batches": [1],
        "baseline": "torch",
        "loop_steps": 2,
        "parts": False,
        "rounds": {"seconds": 0.2, "least": 6, "most": 20},
    },
}
STAGES = tuple(RECIPE)


@pytest.fixture(scope="module")
def recipe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    model = tiny_folder(path.with_name("model"), **PLAIN).root
    settings = {"model": str(model), "data": {"source": str(data), "holdout": 0.5}, "device": "cpu"}
    path.write_text(yaml.safe_dump(settings | RECIPE))
    return path


@pytest.fixture(scope="module")
def training(recipe: Path) -> Path:
    """The recipe as far as the model."""
    path = recipe.with_name("training.yaml")
    later = dict.fromkeys(("evaluate", "export", "profile"))
    path.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | later))
    return path


def finish(recipe: Path, out: Path) -> str:
    code, said = run(recipe, out)
    assert code == 0, said
    return said


def run(recipe: Path, out: Path, largest_file: int = 0) -> tuple[int | None, str]:
    """`dtk run` to its end: the exit code and what was said."""
    errors = out.with_name("errors.txt")
    process = forked.start(["run", recipe, "-o", out], errors, largest_file)
    process.join(600)
    return process.exitcode, errors.read_text()


@pytest.fixture(scope="module")
def uninterrupted(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(training, out)
    return out


def working(out: Path, stage: str) -> Callable[[], bool]:
    """Whether the stage has begun to write and has not finished."""
    if stage == "recover":
        return lambda: len(list((out / "recover" / "checkpoints").glob("step-*.safetensors"))) > 0
    return lambda: any(out.glob(f".dtk-tmp-{stage}.*"))


def kill(recipe: Path, out: Path, stage: str) -> tuple[int | None, str]:
    """`kill -9` as soon as the stage is at work; the exit code and what was said."""
    errors = out.with_name("errors.txt")
    process = forked.start(["run", recipe, "-o", out], errors)
    while process.is_alive() and not working(out, stage)():
        time.sleep(0.005)
    process.kill()
    process.join(60)
    return process.exitcode, errors.read_text()


# A shell's job in the background ignores SIGINT.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "dtk"
from toolkit.cli import app
app()
"""


def interrupt(recipe: Path, out: Path, stage: str) -> tuple[int | None, str]:
    """Ctrl-C as soon as the stage is at work, in an interpreter of its own, which may end by the signal itself."""
    command = [sys.executable, "-c", INTERRUPTIBLE, "run", str(recipe), "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with out.with_name("errors.txt").open("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None and not working(out, stage)():
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait(60)
        errors.seek(0)
        return process.returncode, errors.read()


@pytest.mark.parametrize(
    ("stop", "stages"),
    [(kill, STAGES), (interrupt, ("recover", "export"))],  # Ctrl-C is one handler for all of them
    ids=["kill -9", "Ctrl-C"],
)
def test_stopped_in_any_stage_the_same_command_resumes(
    stop: Callable[[Path, Path, str], tuple[int | None, str]],
    stages: tuple[str, ...],
    recipe: Path,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    finished: dict[str, int] = {}
    for stage in stages:
        code, said = stop(recipe, out, stage)
        # a shell sees 130 for both: Python ends by the signal itself where it came while C code was running Python
        assert code in ({-signal.SIGKILL} if stop == kill else {130, -signal.SIGINT}), (stage, said)
        assert stop == kill or "The same command resumes where this one stopped." in said
        assert stage == "recover" or not (out / stage).exists(), "a half-done stage looks whole"
        now = {name: (out / name).stat().st_mtime_ns for name in STAGES if name != "recover" and (out / name).exists()}
        assert finished.items() <= now.items(), "a finished stage ran again"
        finished = now
    finish(recipe, out)
    assert_same_weights(out, uninterrupted)
    assert not list(out.rglob(".dtk-tmp-*")), "leftovers of a killed process"


def assert_same_weights(*runs: Path) -> None:
    one, other = (load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors") for run in runs)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("size", [10_000, 100_000], ids=["scores do not fit", "weights do not fit"])
def test_a_full_disk_is_said_and_loses_nothing(size: int, training: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = run(training, out, largest_file=size)
    assert code == 1, said
    assert "Could not write" in said
    assert "free some space" in said
    assert "Traceback" not in said
    assert not list(out.rglob(".dtk-tmp-*"))
    finish(training, out)


def test_a_truncated_checkpoint_is_passed_over_and_said(training: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    while True:
        kill(training, out, "recover")
        checkpoints = sorted((out / "recover" / "checkpoints").glob("step-*.safetensors"))
        if checkpoints:
            break
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:5000])
    said = finish(training, out)
    assert f"Passed over the checkpoint {checkpoints[-1].name}: damaged" in said
    assert_same_weights(out, uninterrupted)
