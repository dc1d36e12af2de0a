"""What the pages tell a reader to type works: shell lines, Python blocks, the example, one's own criterion."""

from __future__ import annotations

import re
import time
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
from tests import forked
from tests.architecture.source import ROOT
from tests.cli.conftest import with_a_short_loop
from tests.docs.pages import PAGES, SMALL, blocks, commands, furnish
from tests.tiny import tiny_folder
from toolkit.cli import app
from toolkit.pruning import criteria

SMALLER = {
    "latency=0.8,latency=0.6,latency=0.45": "macs=0.57",
    "20000": "2",
    "40000": "4",
    "5000": "12",
    "1,16,64": "1,2",
}
"""Fewer steps and images; a latency is measured elsewhere: here a busy machine could miss it. One target for all runs:
their graphs are one graph (tests/traces.py)."""
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
    "sweep": [
        *("--calibration-images", "8", "--steps", "2", "--images", "12", "--evaluation-steps", "2"),
        *("--runner", "torch"),
    ],
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
    "score_timesteps=32": "score_timesteps=4, calibration_images=8",
    "STEPS, BATCH = 100, 64": "STEPS, BATCH = 40, 16",
}
"""What changes in the example."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what the pages name lies, and a small default model; latency is measured briefly."""
    furnish(tmp_path)
    small = SMALL | {"in_channels": 1, "out_channels": 1, "sample_size": 16}
    monkeypatch.setattr("toolkit.models.folder.DEFAULT_MODEL", tiny_folder(tmp_path / "default", **small).root)
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
            _serve(words, place)
            continue
        if name == "profile":
            with_a_short_loop(place / "RUN")
        fewer = [] if "RUN/recipe.yaml" in words else FEWER.get(name, [])
        answer = CliRunner().invoke(app, [name, *words, *fewer])
        assert answer.exit_code == 0, (name, words, answer.output, answer.exception)
    assert {path.name for path in place.iterdir()} >= {"RUN", "SWEEP", "MODEL", "runs"}
    assert type(DDPMPipeline.from_pretrained("RUN/model").unet).__name__ == "UNet2DModel"


def _serve(words: list[str], place: Path) -> None:
    """Until it answers, then a signal ends it. Without a tritonserver the line is left out."""
    environment = ROOT / ".venv-server"
    if not environment.is_dir():
        return
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    told = place / "told"
    process = forked.start(["serve", *words, *ports, "--environment", environment], told, output=told)
    while not told.is_file() or "Serving on" not in told.read_text():
        assert process.is_alive(), told.read_text()
        time.sleep(0.1)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0, told.read_text()


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
def test_a_criterion_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (place,) = re.findall(r"`toolkit/pruning/criteria/(\w+\.py)`:\n", page)
    (tmp_path / "criteria").mkdir()
    (tmp_path / "criteria" / place).write_text(blocks(ROOT / "docs" / "architecture.md", "python")[0])
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path / "criteria")])
    monkeypatch.chdir(tmp_path)
    lines = commands(ROOT / "docs" / "architecture.md")
    assert [words[0] for words in lines] == ["list", "compress"] and "l1" in lines[1]
    answers = [CliRunner().invoke(app, words) for words in lines]
    assert [answer.exit_code for answer in answers] == [0, 0], [answer.output for answer in answers]
    assert "l1 " in answers[0].stdout
    assert (tmp_path / "runs" / "l1" / "model" / "model_index.json").is_file()
