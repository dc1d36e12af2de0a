"""Progress bars, in a terminal or a notebook; silence if there is neither."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from toolkit.core.progress import Progress


class Bars:
    """A bar for each piece of work while ``with bars.shown`` lasts, on ``console`` if that is interactive.

    Where it is not, ``finished_lines`` prints a plain line for each finished piece of work.
    """

    def __init__(self, console: Console, *, finished_lines: bool = False) -> None:
        self._console, self._finished_lines = console, finished_lines
        self._interactive = console.is_terminal or console.is_jupyter
        self._tasks: dict[str, TaskID] = {}
        self.shown = RichProgress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=console.quiet or not self._interactive,
        )

    def __call__(self, work: str, done: int, total: int) -> None:
        if work not in self._tasks:
            self._tasks[work] = self.shown.add_task(work, total=total)
        self.shown.update(self._tasks[work], completed=done, total=total)
        if done == total:
            del self._tasks[work]
            if self._finished_lines and not self._interactive:
                self._console.print(f"{work}: done", highlight=False)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, highlight=False)


@contextlib.contextmanager
def watched(progress: Progress | None) -> Iterator[Progress]:
    """``progress`` itself, or bars while the context lasts if it is None."""
    if progress is not None:
        yield progress
        return
    bars = Bars(Console(file=sys.stderr, markup=False))
    with bars.shown:
        yield bars
