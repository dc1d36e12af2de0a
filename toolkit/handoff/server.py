"""A running tritonserver on a run's model repository: started, waited for, drained and ended."""

from __future__ import annotations

import contextlib
import ctypes
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.core.errors import DtkError
from toolkit.core.run_folder import RunFolder
from toolkit.handoff import tritonserver
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.settings import ServeSettings

POLL_S = 0.1
ADMIN_HEADER = "admin-key"  # in HTTP; in gRPC with the prefix triton-grpc-protocol-
# Whoever may load a model may send one with code in it; shared memory is mapped by name; logs go to any path.
GUARDED = "model-repository,shared-memory,trace,logging"
SYSTEM = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
GRACE_S = 5  # after the server's own time for draining, before it is killed


@dataclass(frozen=True)
class Server:
    """A server that answers: its addresses, the key of its guarded calls, its process and the file it logs to."""

    http: str
    grpc: str
    metrics: str
    admin_key: str
    process: subprocess.Popen[bytes]
    log: Path


def serve(run: RunFolder, settings: ServeSettings, *, ready: Callable[[Server], None]) -> int:
    """Serve RUN/handoff until SIGINT or SIGTERM, or until the server ends; returns the server's exit code.

    ``ready`` is called once the model answers. Must run in the main thread, as signal handlers do. Requests under way
    when the signal comes are answered before the server ends.
    """
    run.require("handoff", f"dtk handoff {run.path}")
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(run.path / "handoff" / REPOSITORY, settings, run.path / "serve.log", stopped) as server:
            if not stopped.is_set():
                ready(server)
            while server.process.poll() is None and not stopped.wait(POLL_S):
                pass
            ended = server.process.poll()
        return 0 if ended is None else ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def running(
    repository: Path, settings: ServeSettings, log: Path, stopped: threading.Event | None = None
) -> Iterator[Server]:
    """A server on ``repository`` whose models are loaded; it is drained and ended when the block is left.

    Once ``stopped`` is set its models are not waited for any longer. Raises MissingToolError if no tritonserver can
    be found, DtkError if a model does not load in time; the error gives the server's own reason.
    """
    with tempfile.TemporaryDirectory(prefix="dtk-serve-") as workspace:
        program = tritonserver.find(settings.environment, Path(workspace))
        admin_key = secrets.token_hex(16)
        ports = ports_of(settings)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                _command(program, repository, settings, ports, admin_key),
                env=program.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us: we drain the server, it does not die of it
                preexec_fn=_end_with_parent,
            )
        http, grpc, metrics = (f"{settings.host}:{port}" for port in ports)
        server = Server(http, grpc, f"{metrics}/metrics", admin_key, process, log)
        try:
            _wait_until_ready(server, settings.ready_timeout_s, stopped or threading.Event())
            yield server
        finally:
            stop(server, settings.drain_s)


def _end_with_parent() -> None:
    """In the new process: the system kills it when the thread that started it is gone, even by kill -9.

    Else it would go on with nobody to end it, and keep the ports from the next.
    """
    SYSTEM.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(server: Server, drain_s: float) -> None:
    """Let requests under way finish, then end the server; one that does not end is killed."""
    server.process.terminate()
    try:
        server.process.wait(drain_s + GRACE_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def ports_of(settings: ServeSettings) -> list[int]:
    """The ports of HTTP, gRPC and metrics; 0 in the settings becomes a free one, another for each.

    Raises DtkError for one that is taken: whoever has it would answer in the server's place.
    """
    with contextlib.ExitStack() as probes:  # all open at once, or the same port could be free twice

        def free(wanted: int) -> int:
            probe = probes.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: what has just ended is free
            try:
                probe.bind((settings.host, wanted))
            except OSError as error:
                place = f"{settings.host}:{wanted}"
                raise DtkError(f"Cannot serve on {place}.", found=error.strerror, do="name another port") from error
            port: int = probe.getsockname()[1]
            return port

        return [free(port) for port in (settings.http_port, settings.grpc_port, settings.metrics_port)]


def _command(
    server: tritonserver.TritonServer, repository: Path, settings: ServeSettings, ports: list[int], admin_key: str
) -> list[str]:
    listening = [
        option
        for protocol, port in zip(("http", "grpc", "metrics"), ports, strict=True)
        for option in (f"--{protocol}-address={settings.host}", f"--{protocol}-port={port}")
    ]
    models = sorted(path.name for path in repository.iterdir() if path.is_dir())
    return [
        str(server.program),
        f"--model-repository={repository.absolute()}",
        "--model-control-mode=explicit",  # a new model is served when it is requested, not when a file appears
        *(f"--load-model={name}" for name in models),
        "--disable-auto-complete-config",
        f"--http-restricted-api={GUARDED}:{ADMIN_HEADER}={admin_key}",
        f"--grpc-restricted-protocol={GUARDED}:{ADMIN_HEADER}={admin_key}",
        f"--exit-timeout-secs={settings.drain_s}",
        *([f"--backend-directory={server.backends}"] if server.backends else []),
        *listening,
    ]


def _wait_until_ready(server: Server, timeout_s: float, stopped: threading.Event) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (code := server.process.poll()) is not None:
            raise DtkError(f"The server ended with code {code}.", found=reason(server.log), do=f"see {server.log}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=1)
            return
        if stopped.wait(POLL_S):
            return
    raise DtkError(
        f"The server was not ready after {timeout_s:g} s.",
        found=reason(server.log),
        do=f"see {server.log}, or wait longer with --ready-timeout",
    )


def reason(log: Path) -> str:
    """The lines of a server's log that say why it does not serve: the last errors, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("E") or "error:" in line.lower()]
    return "\n".join(dict.fromkeys(errors[-3:])) or (lines[-1] if lines else "an empty log")
