"""Programs of ours in real processes, forked from one that has imported torch and diffusers for all of them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["toolkit.api.runs", "toolkit.cli", "tests.traces", "matplotlib.backends.backend_svg"])


def start(
    words: Sequence[object],
    errors: Path,
    largest_file: int = 0,
    *,
    program: str = "toolkit",
    output: Path = Path(os.devnull),
    variables: Mapping[str, str] | None = None,
) -> BaseProcess:
    """``python -m PROGRAM WORDS`` in a process of its own.

    Its stderr goes to ``errors``, its stdout to ``output``; ``largest_file`` in bytes acts as a full disk;
    ``variables`` are set in its environment.
    """
    place = (Path.cwd(), os.environ | (variables or {}))
    process = SERVER.Process(target=_work, args=(program, [*map(str, words)], errors, output, largest_file, place))
    process.start()
    return process


def _work(
    program: str, words: list[str], errors: Path, output: Path, largest_file: int, place: tuple[Path, dict[str, str]]
) -> None:
    folder, environment = place
    os.chdir(folder)
    os.environ.update(environment)
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    vars(forkserver._forkserver)["ensure_running"] = lambda: None  # it is the parent's, for what a fork forks
    importlib.import_module("tests.conftest")  # one thread, one opset, shared traces
    sys.argv = [program, *words]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


class Interpreters:
    """``subprocess`` to a module that runs ``python -m PROGRAM WORDS``: the process is forked."""

    @staticmethod
    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        _, option, program, *words = command
        assert option == "-m"
        with tempfile.TemporaryDirectory(prefix="dtk-tests-") as folder:
            output, errors = (Path(folder) / name for name in ("output", "errors"))
            process = start(words, errors, program=program, output=output)
            process.join(options.get("timeout"))
            assert process.exitcode is not None
            return subprocess.CompletedProcess(command, process.exitcode, output.read_text(), errors.read_text())
