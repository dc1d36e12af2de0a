"""How a command ends: with a sentence, and with a next command that exists."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command

from tests.cli.conftest import dtk
from toolkit.cli import app

KINDS = ("criteria", "adapters", "runners", "exporters", "samplers", "losses", "extractors")
GROUP: Any = get_command(app)


@pytest.mark.parametrize(
    "command",
    [
        "compress MODEL --target macs=0.45 --align 4 --dry-run",
        "run RUN/recipe.yaml",
        "recover RUN",
        "report RUN",
        "doctor",
        *(f"list {kind}" for kind in KINDS),
    ],
)
def test_a_command_ends_with_a_sentence_and_the_next_command(
    command: str, model: Path, compressed: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compressed, tmp_path / "run")
    answer = dtk(*shlex.split(command.replace("MODEL", str(model)).replace("RUN", str(run))))
    assert answer.code == 0, answer.err
    before, following = answer.out.strip().split("Next: ")
    assert re.search(r"^[A-Z0-9].* .*\.( |$)", "\n".join(before.splitlines()[-3:]), flags=re.MULTILINE), before
    if "--dry-run" in command:
        assert following == "the same command with -o RUN instead of --dry-run"
        return
    name, *words = shlex.split(following)[1:]
    assert following.startswith("dtk ")
    with click.Context(GROUP) as parent:
        GROUP.commands[name].make_context(name, words, parent=parent)
    if "RUN" in command:
        assert f"Result: {run}/model" in before and f"Page: {run}/report.html" in before
        assert (run / "report.html").is_file()
