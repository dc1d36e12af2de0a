"""Two commands on one run folder: the second is refused, and nothing has to be cleared away after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import dtk
from toolkit.core.errors import DtkError
from toolkit.core.files import TEMPORARY
from toolkit.core.run_folder import RunFolder
from toolkit.core.run_lock import held

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from toolkit.core.run_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return RunFolder.create(tmp_path / "run").path


@pytest.fixture
def holder(run: Path):
    """Another process that holds the run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_command_leaves_no_lock(run: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(DtkError, match="Another dtk command"), held(run):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(run):
        assert [path.name for path in run.iterdir()] == ["run.json"], "no file tells of the lock"


@pytest.mark.parametrize(
    "command",
    [
        ["compress", "-o", "RUN"],
        ["run", "RUN/recipe.yaml"],
        *([stage, "RUN"] for stage in ("recover", "evaluate", "export", "profile", "handoff", "report")),
    ],
    ids=lambda command: command[0],
)
def test_the_second_command_is_refused_in_words_and_changes_nothing(
    command: list[str], run: Path, holder: subprocess.Popen[str]
) -> None:
    (run / "recipe.yaml").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    answer = dtk(*(word.replace("RUN", str(run)) for word in command))
    assert answer.code == 1
    assert f"Another dtk command is at work in {run}" in answer.err
    assert str(holder.pid) in answer.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_what_a_killed_command_left_goes_when_nobody_else_is_at_work(run: Path, holder: subprocess.Popen[str]) -> None:
    leftover = run / f"{TEMPORARY}export.1"
    (leftover / "onnx").mkdir(parents=True)
    with pytest.raises(DtkError, match="Another dtk command"), held(run):
        pass
    assert leftover.is_dir(), "it may be the other command's own"
    holder.kill()
    holder.wait()
    with held(run):
        assert not leftover.exists()


def test_a_folder_that_was_made_and_stayed_empty_goes_again(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="refused"), held(tmp_path / "new", make=True):
        assert (tmp_path / "new").is_dir()
        raise DtkError("refused")
    assert not (tmp_path / "new").exists()
    with held(tmp_path / "new", make=True):
        RunFolder.create(tmp_path / "new")
    assert (tmp_path / "new" / "run.json").is_file()


@pytest.mark.parametrize(
    "command",
    [["compress", "-o", "RUN"], ["run", "recipe.yaml", "-o", "RUN"], ["sweep", "-o", "RUN", "--targets", "macs=0.57"]],
    ids=lambda command: command[0],
)
def test_a_folder_that_cannot_be_made_is_an_error_in_words(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "recipe.yaml").write_text("{}")
    run, recipe = str(tmp_path / "file" / "run"), str(tmp_path / "recipe.yaml")
    answer = dtk(*(word.replace("RUN", run).replace("recipe.yaml", recipe) for word in command))
    assert answer.code == 1
    assert f"Could not write {run}." in answer.err and "Not a directory" in answer.err
    assert "Traceback" not in answer.err


def test_a_full_disk_is_an_error_in_words_and_another_error_stays_itself(run: Path) -> None:
    with pytest.raises(DtkError, match=r"Could not write (.|\n)*No space left"), held(run):
        Path("/dev/full").write_text("anything")
    with pytest.raises(FileNotFoundError), held(run):
        (run / "absent").read_text()


def test_what_is_no_folder_is_left_to_the_command(tmp_path: Path) -> None:
    with held(tmp_path / "absent"):
        assert not (tmp_path / "absent").exists()
    (tmp_path / "file").touch()
    with held(tmp_path / "file", make=True):
        pass


def test_a_second_hold_after_the_first_is_free(run: Path) -> None:
    for _ in range(2):
        with held(run):
            pass
