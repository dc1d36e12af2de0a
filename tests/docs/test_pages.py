"""What the pages tell a reader to type works: shell lines, Python blocks, the example, one's own criterion."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from diffusers import DDPMPipeline
from typer.main import get_command
from typer.testing import CliRunner

from profiles.latency_table import Timing, compare
from profiles.settings import Rounds
from tests.architecture.source import PACKAGES, ROOT
from tests.docs.pages import PAGES, blocks, commands, furnish
from toolkit.cli import app

SMALLER = {
    "latency=0.8,latency=0.6,latency=0.45": "width=0.5",
    "20000": "2",
    "40000": "4",
    "5000": "12",
    "1,16,64": "1,2",
}
"""Fewer steps and images; a latency is measured elsewhere: here a busy machine could miss it."""
FEWER = {
    "run": [
        part
        for change in (
            "prune.score_timesteps=4",
            "prune.calibration_images=8",
            "recover.steps=2",
            "evaluate.images=12",
            "evaluate.sampling_steps=2",
            "export.loop_steps=2",
            "profile.runners=[onnxruntime]",
            "profile.batches=[1]",
            "profile.baseline=torch",
            "profile.loop_steps=2",
            "profile.rounds.seconds=0.1",
        )
        for part in ("--set", change)
    ],
    "compress": ["--score-timesteps", "4", "--calibration-images", "8"],
    "evaluate": ["--sampling-steps", "2"],
    "export": ["--batch", "1:2:4"],
    "profile": ["--seconds", "0.1", "--baseline", "torch"],
    "sweep": ["--calibration-images", "8", "--steps", "2", "--images", "12", "--evaluation-steps", "2"],
}


CALLS = {
    'out="RUN"': ", score_timesteps=4, calibration_images=8, batch_size=4",
    "scheduler=pipeline.scheduler": ", score_timesteps=4, calibration_images=8",
    "scheduler=scheduler": ", score_timesteps=4, calibration_images=8",
    "value_range=(0, 1)": ", calibration_images=8",
    "images=12": ", sampling_steps=2",
    "export(": 'batch="1:2:4", loop_steps=2, ',
    "profile(": 'rounds={"seconds": 0.1, "least": 6}, loop_steps=2, baseline="torch", ',
}
"""What is added to a call of a Python block."""


SHORTER = {
    "range(2000)": "range(256)",
    "score_timesteps=32": "score_timesteps=8, calibration_images=32",
    "STEPS, BATCH = 100, 64": "STEPS, BATCH = 50, 32",
}
"""What changes in the example."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what the pages name lies; latency is measured briefly, and memory in processes that are forked."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("profiles.latency_table.compare", partial(_briefly, compare))
    return tmp_path


def _briefly(compare: Callable[..., Timing], dense: Any, other: Any, inputs: Any, rounds: Rounds) -> Timing:
    return compare(dense, other, inputs, rounds.model_copy(update={"seconds": 0.1}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_parses(page: Path) -> None:
    group: Any = get_command(app)
    for name, *words in commands(page):
        command = group.commands[name]
        with click.Context(group) as parent:
            command.make_context(name, list(words), parent=parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_a_page_speaks_of_exists(page: Path) -> None:
    group: Any = get_command(app)
    known = {
        text
        for command in (group, *group.commands.values())
        for p in command.params
        for text in (*p.opts, *p.secondary_opts)
    }
    spoken = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", "\n".join(re.findall(r"`([^`\n]+)`", page.read_text()))))
    foreign = {"--help", "--index-url", "--results"}
    assert spoken - known - foreign == set()


@pytest.mark.slow
def test_the_shell_lines_of_the_readme(place: Path) -> None:
    for name, *words in commands(ROOT / "README.md"):
        words = [SMALLER.get(word, word) for word in words]
        if name == "serve":
            _serve(words)
            continue
        fewer = [] if "RUN/recipe.yaml" in words else FEWER.get(name, [])
        answer = CliRunner().invoke(app, [name, *words, *fewer])
        assert answer.exit_code == 0, (name, words, answer.output, answer.exception)
    assert {path.name for path in place.iterdir()} >= {"RUN", "SWEEP", "MODEL", "runs"}
    assert type(DDPMPipeline.from_pretrained("RUN/model").unet).__name__ == "UNet2DModel"


def _serve(words: list[str]) -> None:
    """Until it answers, then a signal ends it. Without a tritonserver the line is left out."""
    environment = ROOT / ".venv-server"
    if not environment.is_dir():
        return
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "toolkit", "serve", *words, *ports, "--environment", str(environment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        told = ""
        while "Serving on" not in told:
            line = process.stdout.readline()
            assert line, told
            told += line
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_the_python_blocks_of_the_readme(place: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained("path/to/pipeline")
    names = {"unet": pipeline.unet, "scheduler": pipeline.scheduler, "images": "images/"}
    code = [block.replace('out="RUN")', 'out="RUN", steps=2)') for block in blocks(ROOT / "README.md", "python")]
    runners = "profile(runners=('onnxruntime',), batches=(1, 2))"
    _execute([block.replace("profile()", runners) for block in code], names)
    assert (place / "RUN" / "report.html").is_file()


@pytest.mark.slow
def test_the_blocks_of_the_python_page(place: Path) -> None:
    _execute(blocks(ROOT / "docs" / "python.md", "python"), {})
    assert (place / "small" / "config.json").is_file()


def _execute(code: list[str], names: dict[str, Any]) -> None:
    """Run the blocks one after the other, as one program."""
    for block in code:
        for large, small in SMALLER.items():
            block = block.replace(large, small)
        for call, options in CALLS.items():
            block = block.replace(call, f"{call}{options}")
        exec(compile(block, "a block", "exec"), names)


@pytest.mark.slow
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = (ROOT / "docs" / "examples" / "compress_in_memory.py").read_text(encoding="utf-8")
    for large, small in SHORTER.items():
        assert large in code
        code = code.replace(large, small)
    exec(compile(code, "the example", "exec"), {})
    dense, pruned, trained = map(float, re.findall(r"(?:dense|pruned|steps) (\d\.\d+)", capsys.readouterr().out))
    assert dense < trained < pruned


@pytest.mark.slow
def test_a_criterion_of_ones_own_is_one_file(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (place,) = re.findall(r"`(toolkit/pruning/criteria/\w+\.py)`:\n", page)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / place).write_text(blocks(ROOT / "docs" / "architecture.md", "python")[0])
    lines = commands(ROOT / "docs" / "architecture.md")
    assert [words[0] for words in lines] == ["list", "compress"] and "l1" in lines[1]
    code = f"from toolkit.cli import app\nfor words in {lines}: app(words, standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "l1 " in done.stdout.partition("Plan")[0]
    assert (tmp_path / "runs" / "l1" / "model" / "model_index.json").is_file()
