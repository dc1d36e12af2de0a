"""Ctrl-C, kill -9 and a full disk in every stage: nothing is lost, and the same command goes on."""

from __future__ import annotations

import contextlib
import os
import resource
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
    "profile": {"batches": [1], "rounds": {"seconds": 0.2, "least": 6, "most": 20}},
}
STAGES = tuple(RECIPE)


@pytest.fixture(scope="module")
def recipe(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    settings = {"model": str(model), "data": {"source": str(data), "holdout": 0.5}, "device": "cpu"}
    path.write_text(yaml.safe_dump(settings | RECIPE))
    return path


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "toolkit", "run", str(recipe), "-o", str(out)]


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
        command(recipe, out),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_stopped_in_every_stage_the_same_command_goes_on(
    how: signal.Signals, recipe: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finished: dict[str, int] = {}
    for stage in STAGES:
        code, said = stop(recipe, out, stage, how)
        # a shell sees 130 for both: Python ends by the signal itself where it came while C code was running Python
        assert code in ({-signal.SIGKILL} if how == signal.SIGKILL else {130, -signal.SIGINT}), (stage, said)
        assert how == signal.SIGKILL or "The same command goes on where this one stopped." in said
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


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [10_000, 100_000], ids=["scores do not fit", "weights do not fit"])
def test_a_full_disk_is_said_and_loses_nothing(size: int, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        command(recipe, out), env=environment(), preexec_fn=limited(size), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stderr
    assert "Could not write" in done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob(".dtk-tmp-*"))
    finish(recipe, out)


def test_a_truncated_checkpoint_is_passed_over_and_said(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    while True:
        stop(recipe, out, "recover", signal.SIGKILL)
        checkpoints = sorted((out / "recover" / "checkpoints").glob("step-*.safetensors"))
        if checkpoints:
            break
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:5000])
    said = finish(recipe, out)
    assert f"Passed over the checkpoint {checkpoints[-1].name}: damaged" in said
    assert_same_weights(out, uninterrupted)
