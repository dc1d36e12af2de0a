"""How a command ends: with a sentence, and with a next command that exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command

from tests.architecture.source import ROOT
from tests.cli.conftest import dtk
from toolkit.api.results import Known
from toolkit.cli import app
from toolkit.cli.inform import NEXT
from toolkit.cli.terminal import say, show, terminal

GROUP: Any = get_command(app)


@pytest.mark.parametrize(
    "command",
    [
        "compress MODEL --target macs=0.45 --align 4 --dry-run",
        "compress MODEL --target macs=0.45 --align 4 --dry-run -o OTHER",
        "run RUN/recipe.yaml",
        "recover RUN",
        "report RUN",
        "doctor",
        *(f"list {kind}" for kind in NEXT),
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
        named = "" if "-o" in command else ", with -o RUN"
        assert following == f"the same command without --dry-run{named}"
        return
    name, *words = shlex.split(following)[1:]
    assert following.startswith("dtk ")
    with click.Context(GROUP) as parent:
        GROUP.commands[name].make_context(name, words, parent=parent)
    if "RUN" in command:
        assert f"Result: {run}/model" in before and f"Page: {run}/report.html" in before
        assert (run / "report.html").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    assert dtk("--version").out == f"dtk {version('dtk')}\n"


NAMES = "[/a] [bold]b", "[red]"


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich takes [bold] for markup, and ends with an error at [/a]."""
    show(Known(dict.fromkeys(NAMES, NAMES[0])), False)
    say(f"Result: {NAMES[0]}/model")
    with terminal() as progress:
        progress.say(NAMES[0])
        progress(NAMES[0], 1, 1)
    shown = capsys.readouterr()
    for name in NAMES:
        assert name in shown.out
    assert f"Result: {NAMES[0]}/model" in shown.out and shown.err.count(NAMES[0]) == 2
    assert NAMES[0] in Known(dict.fromkeys(NAMES, ""))._repr_html_()


def test_what_libraries_print_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    """A tracker announces itself on stdout; a script reads JSON there, and nothing else."""
    known = Known({"a": "b"})
    with terminal(quiet=True):
        sys.stdout.write("* project initialised\n")
        show(known, True)
        show(known, False)
    show(known, True)
    shown = capsys.readouterr()
    assert shown.err == "* project initialised\n"
    assert shown.out.count(json.dumps(known.to_json(), indent=2)) == 2 and "project" not in shown.out


def test_libraries_keep_their_warnings_to_themselves() -> None:
    """Diffusers warns of a config's unknown field once for every time it is read."""
    assert {os.environ[f"{name}_VERBOSITY"] for name in ("DIFFUSERS", "TRANSFORMERS")} == {"error"}


SHOWS = """
from toolkit.api.results import Known
from toolkit.cli import app
from toolkit.cli.terminal import show
app.command("x")(lambda: show(Known({"a": "b"}), as_json=True))
app(["x"])
"""


def test_a_reader_that_has_gone_is_no_error_at_the_interpreter_s_end_either() -> None:
    """As in `dtk ... | head`, whatever was written before and after head left."""
    closed = subprocess.run(
        ["bash", "-c", '{ sleep 0.05; exec "$@"; } | true', "bash", sys.executable, "-c", SHOWS],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert closed.stderr == ""
