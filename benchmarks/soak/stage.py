"""One stage of a run, undisturbed, and killed, starved and asked for twice: each time it must end the same."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.compare import differences, half_written
from toolkit.core.noise import generator

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["toolkit.api.runs", "matplotlib.backends.backend_svg"])
PRUNING = "pruning.yaml"
Place = Path
"""A folder with the run and the user's cache that its commands see."""


def start(place: Place, words: list[str], said: Path, *, largest: int = 0) -> BaseProcess:
    """A command in a forked process; what it says goes to ``said``.

    Its files may not be larger than ``largest`` bytes if that is not 0.
    """
    process = FORKS.Process(target=_work, args=(place, words, largest, said))
    process.start()
    return process


def _work(place: Place, words: list[str], largest: int, said: Path) -> None:
    import torch

    from toolkit.cli import app

    torch.set_num_threads(1)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
    os.environ["DTK_CACHE"] = str(place / "cache")
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    app(words)


class Stage:
    """One stage of ``work``: its command, the state before it, and the state after it undisturbed."""

    def __init__(self, work: Path, name: str, before: Place | None) -> None:
        self.work, self.name, self.before = work, name, before
        self.draw = generator(f"soak {name}", 0)
        self.after, self.problems = work / f"after-{name}", list[str]()
        began = time.monotonic()
        self.finish(self.fresh(self.after), None)
        self.seconds = time.monotonic() - began
        self.finish(self.fresh(work / "again"), "a second undisturbed run")

    def words(self, place: Place) -> list[str]:
        run = str(place / "run")
        return ["run", str(self.work / PRUNING), "-o", run] if self.name == "prune" else [self.name, run]

    def fresh(self, place: Place) -> Place:
        """The state before the stage at ``place``."""
        for inner in place.iterdir() if place.is_dir() else ():
            shutil.rmtree(inner)
        shutil.copytree(self.before, place, dirs_exist_ok=True) if self.before else place.mkdir(exist_ok=True)
        return place

    def begin(self, place: Place, said: str = "said.txt", **options: Any) -> BaseProcess:
        return start(place, self.words(place), self.work / said, **options)

    def finish(self, place: Place, what: str | None) -> None:
        """Run the stage to its end; it must then be as it was undisturbed. ``what`` had happened to it."""
        process = self.begin(place)
        process.join()
        if process.exitcode not in (0, 3) or "Traceback" in self.said():  # 3: a verification that decides nothing
            self.problems.append(f"after {what}: exit code {process.exitcode}: {self.said()[-2000:]}")
        elif what is not None:
            self.problems += [f"after {what}: {text}" for text in differences(place, self.after)]

    def said(self, name: str = "said.txt") -> str:
        return (self.work / name).read_text(errors="replace")

    def moment(self) -> float:
        """Seconds into the stage, at most as many as it takes."""
        return float(self.draw.uniform(0, self.seconds))

    def killed(self, count: int) -> dict[str, int]:
        """``count`` kills; a run that finished before one began again from the state before."""
        place, done, finished = self.fresh(self.work / "killed"), 0, 0
        while done < count:
            process = self.begin(place)
            process.join(self.moment())
            if process.exitcode is None:
                process.kill()
                process.join()
                done += 1
                self.problems += [f"after kill {done}: {text}" for text in half_written(place)]
            else:
                finished += 1
                self.problems += [f"after {done} kills: {text}" for text in differences(place, self.after)]
                self.fresh(place)
        self.finish(place, f"{done} kills")
        return {"kills": done, "finished_between": finished}

    def refused(self, process: BaseProcess, words: str, what: str, said: str = "said.txt") -> bool:
        """Whether the process ended with an error in ``words``; any other end but success is a problem."""
        process.join()
        text = self.said(said)
        if process.exitcode in (0, 3):
            return False
        if process.exitcode != 1 or words not in text or "Traceback" in text:
            self.problems.append(f"{what}: exit code {process.exitcode}: {text[-2000:]}")
        return True

    def full(self, count: int) -> int:
        """How many of ``count`` disks of random size were too small for the stage."""
        refused = 0
        for number in range(count):
            with disk(self.work / "disk") as resize:
                place = self.fresh(self.work / "disk" / "place")
                needed, used = size(self.after), size(place)
                largest = 0 if resize else int(np.exp(self.draw.uniform(np.log(2000), np.log(needed))))
                resize and resize(int(used + self.draw.uniform(0.02, 1.1) * (needed - used)) + 2**16)
                process = self.begin(place, largest=largest)
                refused += self.refused(process, "Could not write", f"full disk {number}")
                resize and resize(2**32)
                self.finish(place, f"a full disk ({number})")
        return refused

    def read_only(self, count: int) -> int | None:
        """How many of ``count`` runs a disk that became read-only ended."""
        refused = 0
        for number in range(count):
            with disk(self.work / "disk") as resize:
                if resize is None:
                    return None
                place = self.fresh(self.work / "disk" / "place")
                process = self.begin(place)
                process.join(self.moment())
                while process.exitcode is None and not _mount("remount,ro", self.work / "disk"):
                    process.join(0.002)  # a file is open
                refused += self.refused(process, "Could not write", f"read-only disk {number}")
                _mount("remount,rw", self.work / "disk")
                self.finish(place, f"a read-only disk ({number})")
        return refused

    def twice(self, count: int) -> int:
        """How many of ``count`` second commands were refused."""
        refused = 0
        for number in range(count):
            place = self.fresh(self.work / "twice")
            first = self.begin(place)
            first.join(self.moment())
            second = self.begin(place, said="second.txt")
            commands = {"said.txt": first, "second.txt": second}
            words = "Another dtk command is at work"
            ends = [self.refused(process, words, f"twice {number}", said) for said, process in commands.items()]
            refused += sum(ends)
            if all(ends):
                self.problems.append(f"twice {number}: both were refused")
            self.problems += [f"twice {number}: {text}" for text in differences(place, self.after)]
        return refused


def size(place: Place) -> int:
    """Bytes that its files take on a disk."""
    return 512 * sum(path.stat().st_blocks for path in place.rglob("*"))


def _mount(options: str, at: Path) -> bool:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], capture_output=True).returncode == 0


@contextlib.contextmanager
def disk(at: Path) -> Iterator[Callable[[int], object] | None]:
    """A disk at ``at`` and what changes its size in bytes; an ordinary folder and None where nothing may be mounted."""
    at.mkdir(exist_ok=True)
    mounted = os.geteuid() == 0 and _mount("size=4g", at)
    try:
        yield (lambda count: _mount(f"remount,size={count}", at)) if mounted else None
    finally:
        subprocess.run(["umount", at], check=True) if mounted else shutil.rmtree(at)
