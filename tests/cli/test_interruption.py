"""Ctrl-C, kill -9 and a full disk in every stage: nothing is lost, and the same command continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = {
    "prune": {"target": "macs=0.45", "threshold": 0.5, "calibration_images": 4, "align": 4},
    "recover": {"steps": 40, "batch_size": 8, "checkpoint_every": 10},
    "evaluate": {"images": 24, "sampling_steps": 2},
    "export": {"loop_steps": 2, "batch": "1:2:4"},
    "profile": {"batches": [1], "loop_steps": 2, "parts": False, "rounds": {"seconds": 0.2, "least": 6, "most": 20}},
}
STAGES = tuple(RECIPE)


@pytest.fixture(scope="module")
def recipe(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
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


# Not preexec_fn: a fork of a process that has used gRPC dies of it. And a job in the background ignores SIGINT.
LAUNCHER = """
import os, resource, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if size := int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def command(recipe: Path, out: Path, largest_file: int = 0) -> list[str]:
    """`dtk run`; ``largest_file`` in bytes stands in for a full disk."""
    launcher = [sys.executable, "-c", LAUNCHER, str(largest_file)]
    return [*launcher, "-m", "toolkit", "run", str(recipe), "-o", str(out)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def finish(recipe: Path, out: Path) -> str:
    done = subprocess.run(command(recipe, out), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(recipe, out)
    return out


def working(out: Path, stage: str) -> Callable[[], bool]:
    """Whether the stage has begun to write and has not finished."""
    if stage == "recover":
        return lambda: len(list((out / "recover" / "checkpoints").glob("step-*.safetensors"))) > 0
    return lambda: any(out.glob(f".dtk-tmp-{stage}.*"))


def stop(recipe: Path, out: Path, stage: str, how: signal.Signals) -> tuple[int, str]:
    """Run until the stage is at work, send the signal, and return the exit code and what was said."""
    process = subprocess.Popen(
        command(recipe, out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr or []))
    reader.start()
    while process.poll() is None and not working(out, stage)():
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    code = process.wait(timeout=60)
    reader.join()
    return code, "".join(said)


@pytest.mark.parametrize(
    ("how", "stages"),
    [(signal.SIGKILL, STAGES), (signal.SIGINT, ("recover", "export"))],  # Ctrl-C is one handler for all of them
    ids=["kill -9", "Ctrl-C"],
)
def test_stopped_in_any_stage_the_same_command_resumes(
    how: signal.Signals, stages: tuple[str, ...], recipe: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finished: dict[str, int] = {}
    for stage in stages:
        code, said = stop(recipe, out, stage, how)
        # a shell sees 130 for both: Python ends by the signal itself where it came while C code was running Python
        assert code in ({-signal.SIGKILL} if how == signal.SIGKILL else {130, -signal.SIGINT}), (stage, said)
        assert how == signal.SIGKILL or "The same command resumes where this one stopped." in said
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
    limited = command(training, out, size)
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "Could not write" in done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob(".dtk-tmp-*"))
    finish(training, out)


def test_a_truncated_checkpoint_is_passed_over_and_said(training: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    while True:
        stop(training, out, "recover", signal.SIGKILL)
        checkpoints = sorted((out / "recover" / "checkpoints").glob("step-*.safetensors"))
        if checkpoints:
            break
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:5000])
    said = finish(training, out)
    assert f"Passed over the checkpoint {checkpoints[-1].name}: damaged" in said
    assert_same_weights(out, uninterrupted)
