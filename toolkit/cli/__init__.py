"""The command line: each command parses, calls one function of the Python API, and prints what it found."""

from __future__ import annotations

from typer.models import CommandInfo

from toolkit.cli import compress, convert, inform, profile, stages, sweep  # each module adds its commands to the app
from toolkit.cli.app import app

__all__ = ["app", "compress", "convert", "inform", "profile", "stages", "sweep"]

MADE = ("compress", "run", "recover", "evaluate", "export", "profile", "handoff", "serve", "report")
"""The commands of one run, in the order of use; the others follow."""


def _place(command: CommandInfo) -> int:
    name = command.name or getattr(command.callback, "__name__", "")
    return MADE.index(name) if name in MADE else len(MADE)


app.registered_commands.sort(key=_place)
