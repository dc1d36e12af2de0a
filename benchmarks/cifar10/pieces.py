"""Run dtk in pieces: a command that is stopped after some minutes resumes where it stopped when it is given again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.cli import app
from toolkit.cli.terminal import INTERRUPTED

MORE = 75  # exit code of what is not finished and goes on


class Pieces:
    """A budget of minutes for a sequence of dtk commands.

    All run in this process: to import torch and diffusers anew for each took 25 s on a machine that was lent for
    15 minutes.
    """

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def dtk(self, *arguments: object) -> None:
        """Run one dtk command. Raises SystemExit(MORE) when the budget ends; with dtk's own code if it fails."""
        print("$ dtk", *arguments, flush=True)
        left_s, ended = self._end - time.monotonic(), threading.Event()
        try:
            if left_s <= 0:
                ended.set()
                raise SystemExit(INTERRUPTED)
            with _interrupted_after(left_s, ended):
                app([str(argument) for argument in arguments])
        except (SystemExit, KeyboardInterrupt) as done:
            if ended.is_set():
                print("The minutes are up; the same command continues.", flush=True)
                raise SystemExit(MORE) from None
            if not isinstance(done, SystemExit) or done.code:
                raise


@contextmanager
def _interrupted_after(seconds: float, ended: threading.Event) -> Iterator[None]:
    """A Ctrl-C of its own after so many seconds, which dtk answers by stopping where it can resume; sets ``ended``."""

    def interrupt(*_: object) -> None:
        ended.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
