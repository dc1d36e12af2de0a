"""A command line in real processes, forked from one that has imported torch and diffusers for all of them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["toolkit.api.runs"])


def start(
    words: Sequence[object],
    errors: Path,
    largest_file: int = 0,
    *,
    program: str = "toolkit.cli",
    output: Path = Path(os.devnull),
    variables: Mapping[str, str] | None = None,
) -> BaseProcess:
    """The ``app`` of the module ``program`` with WORDS in a process of its own.

    Its stderr goes to ``errors``, its stdout to ``output``; ``largest_file`` in bytes acts as a full disk;
    ``variables`` are set in its environment.
    """
    process = SERVER.Process(
        target=_work, args=(program, [*map(str, words)], errors, output, largest_file, variables or {})
    )
    process.start()
    return process


def _work(
    program: str, words: list[str], errors: Path, output: Path, largest_file: int, variables: Mapping[str, str]
) -> None:
    import torch

    from tests import traces

    os.environ.update(variables)
    traces.share()
    app = importlib.import_module(program).app
    torch.set_num_threads(1)
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    app(words)
