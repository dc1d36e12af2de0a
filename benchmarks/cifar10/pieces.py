"""Run dtk in pieces: a command that is stopped after some minutes resumes where it stopped when it is given again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

GRACE_S = 60


class Pieces:
    """A budget of minutes for a sequence of dtk commands."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def dtk(self, *arguments: object) -> None:
        """Run one dtk command. Raises SystemExit(75), "try again", when the budget ends; dtk's own code if it fails."""
        command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
        print("$ dtk", *arguments, flush=True)
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=max(1.0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            print("The minutes are up; the same command continues.", flush=True)
            raise SystemExit(75) from None
        if code != 0:
            raise SystemExit(code)
