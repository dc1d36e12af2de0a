"""A server that is told to stop while it still loads."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from toolkit.core.run_folder import Request, RunFolder
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import serve
from toolkit.handoff.settings import ServeSettings

LONG_S = 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_that_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    # The server itself sends it: no sooner than whoever started it listens, and never to a test that has failed.
    program.write_text(f"#!/bin/sh\nkill -{number:d} $PPID\nexec sleep {LONG_S}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    run = RunFolder.create(tmp_path / "run")
    with run.writing(Request("handoff", {}, {})) as folder:
        (folder / REPOSITORY / "sampler").mkdir(parents=True)
    ports = dict.fromkeys(("http_port", "grpc_port", "metrics_port"), 0)
    started = time.monotonic()
    code = serve(run, ServeSettings(**ports), ready=lambda server: pytest.fail("it was never ready"))
    assert code == 0 and time.monotonic() - started < LONG_S / 2
