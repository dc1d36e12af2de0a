"""What the user sees: progress on a terminal, tables for people, JSON for scripts, errors without a traceback."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console

from toolkit.api.progress import Bars
from toolkit.core import processes
from toolkit.core.errors import DtkError

if TYPE_CHECKING:
    from toolkit.api.result import Result
    from toolkit.api.results import Report

INTERRUPTED = 130
RESULTS: ContextVar[TextIO | None] = ContextVar("results", default=None)
"""Where results are shown while a command works, if that is not what sys.stdout is then."""


class Notes(logging.Handler):
    """What the user should know that is no fault; on stderr, with --json as well."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        quiet, self._console.quiet = self._console.quiet, False
        self._console.print(f"note: {record.getMessage()}", style="yellow", highlight=False, soft_wrap=True)
        self._console.quiet = quiet


@contextlib.contextmanager
def terminal(quiet: bool = False) -> Iterator[Bars]:
    """Progress for one command; errors become a message and the exit code.

    What libraries print goes to stderr: stdout is for ``show`` and ``say``.
    """
    console = Console(stderr=True, quiet=quiet or not processes.is_main(), markup=False)
    logger, notes = logging.getLogger("toolkit"), Notes(console)
    logger.addHandler(notes)
    bars = Bars(console, finished_lines=True)
    try:
        with bars.shown, _results_apart():
            yield bars
    except DtkError as error:
        console.quiet = False
        console.print(f"Error: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        console.quiet = False
        console.print("Interrupted. The same command resumes where this one stopped.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        logger.removeHandler(notes)


@contextlib.contextmanager
def _results_apart() -> Iterator[None]:
    token = RESULTS.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        RESULTS.reset(token)


def show(result: Result, as_json: bool) -> None:
    """Print a result: JSON for scripts, its tables for people."""
    if as_json:
        _write(json.dumps(result.to_json(), indent=2) + "\n")
        return
    for part in result.tables():
        say(part)


def say(part: object) -> None:
    """Print a table or a line; a line is left to the terminal to wrap, and a pipe never wraps."""
    console = Console(file=RESULTS.get(), markup=False)  # a name with [brackets] is a name
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    with console.capture() as shown:
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    _write(shown.get())


def _write(text: str) -> None:
    """At once: that a pipe's reader has gone shows here, where it ends the command, not at the interpreter's end."""
    stream = RESULTS.get() or sys.stdout
    stream.write(text)
    stream.flush()


PIPE_WIDTH = 200  # columns of a table that no terminal limits


def show_ending(report: Report) -> None:
    """What the run found in one sentence, where the result and its page lie, and the next command."""
    folder = report.folder
    say(f"\n{report.verdict}")
    say(f"Result: {folder}/model, a stock diffusers folder. Page: {report.page}")
    following = next(iter(report.missing.values()), f"dtk serve {folder}")
    say(f"Next: {following}")
