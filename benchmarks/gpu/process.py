"""A piece as a process of its own: what ends it, a time limit or a fault of a driver, leaves the others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cifar10.pieces import MORE
from benchmarks.gpu.pieces import Piece
from toolkit.core.environment import machine, resolve_device, versions
from toolkit.core.files import write_json

GRACE_S = 60  # a piece stops itself in time; this long after that it is ended
LINES = 15  # of the log, kept with a failure


def run_piece(number: int, piece: Piece, target: Path, work: Path, results: Path, left_s: float, toy: bool) -> bool:
    """Run a piece for ``left_s`` at most; False if it was not finished, and goes on when it is run again."""
    log = work / "logs" / f"{piece.file(number)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{number} {piece.name}", flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "piece", str(number), "--minutes", f"{left_s / 60:.2f}"]
    command += ["--work", str(work), "--results", str(results), *(["--toy"] if toy else [])]
    started = time.monotonic()
    code = ended(command, log, left_s + GRACE_S)
    if code == MORE:
        return False
    told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    found = _result(told) if code == 0 else {"failed": code, "log": told[-LINES:]}
    where = {"machine": machine(resolve_device("auto")), "versions": versions()}
    write_json(
        target, {"piece": piece.name, "toy": toy, "seconds": round(time.monotonic() - started, 1), **where} | found
    )
    print(f"  {'failed' if code else 'done'}: {target}, {log}", flush=True)
    return True


def _result(told: list[str]) -> dict[str, Any]:
    """The last line that is a result: libraries may say something as the process ends."""
    result: dict[str, Any] = json.loads(next(line for line in reversed(told) if line.startswith("{")))
    return result


def ended(command: list[str], log: Path, limit_s: float) -> int:
    """Run ``command``, all it says in ``log``; its exit code, MORE if it had to be stopped."""
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        for stop, patience_s in ((signal.SIGINT, limit_s), (signal.SIGKILL, GRACE_S)):
            try:
                code = process.wait(timeout=patience_s)
                return code if stop is signal.SIGINT else MORE
            except subprocess.TimeoutExpired:
                process.send_signal(stop)
        process.wait()
    return MORE
