"""The command line in real processes, forked from one that has imported torch and diffusers for all of them."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["toolkit.api.runs"])


def start(words: Sequence[object], errors: Path, largest_file: int = 0) -> BaseProcess:
    """`dtk WORDS` in a process of its own, its stderr in ``errors``; ``largest_file`` in bytes acts as a full disk."""
    process = SERVER.Process(target=_work, args=([*map(str, words)], errors, largest_file))
    process.start()
    return process


def _work(words: list[str], errors: Path, largest_file: int) -> None:
    import torch

    from toolkit.cli import app

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    app(words)
