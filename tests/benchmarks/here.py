"""What the studies run in processes of their own, in this one: it has imported everything already."""

from __future__ import annotations

from typer.testing import CliRunner

from benchmarks.cifar10.pieces import Pieces
from toolkit.cli import app


def dtk_here(pieces: Pieces, *arguments: object) -> None:
    """``Pieces.dtk`` without the process."""
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if answer.exit_code:
        raise AssertionError((arguments, answer.output)) from answer.exception
