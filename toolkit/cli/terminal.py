"""What the user sees: progress on a terminal, tables for people, JSON for scripts, errors without a traceback."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from toolkit import processes
from toolkit.errors import DtkError

INTERRUPTED = 130


class Terminal:
    """Progress bars on stderr where it is a terminal, a plain line for each finished piece of work where it is not."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, quiet=quiet)
        self.bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def progress(self, work: str, done: int, total: int) -> None:
        """A listener for stages."""
        if work not in self._tasks:
            self._tasks[work] = self.bars.add_task(work, total=total)
        self.bars.update(self._tasks[work], completed=done, total=total)
        if done == total:
            del self._tasks[work]
            if not self.console.is_terminal:
                self.console.print(f"{work}: done", highlight=False)

    def notice(self, message: str) -> None:
        """Something the user should know that is no fault; scripts are told as well, on stderr."""
        quiet, self.console.quiet = self.console.quiet, False
        self.console.print(f"note: {message}", style="yellow", highlight=False, markup=False)
        self.console.quiet = quiet


@contextlib.contextmanager
def terminal(quiet: bool = False) -> Iterator[Terminal]:
    """A terminal for one command; what goes wrong is said in words and becomes the exit code."""
    import typer

    told = Terminal(quiet or not processes.is_main())
    try:
        with told.bars:
            yield told
    except DtkError as error:
        told.console.quiet = False
        told.console.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        told.console.quiet = False
        told.console.print("Interrupted. The same command goes on where this one stopped.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def show(value: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    """Print a result: JSON for scripts, ``table(value)`` for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    from rich.console import Console

    console = Console()
    for part in table(value):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
