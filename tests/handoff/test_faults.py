"""What goes wrong around a server: killed, stopped, damaged files, swapped models."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from tests.architecture.source import ROOT
from tests.handoff.asking import LEVEL, PROTOCOLS, ask, client, reference
from tests.handoff.conftest import SERVER_ENVIRONMENT, SETTINGS
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, write_json
from toolkit.core.run_folder import RunFolder
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import ADMIN_HEADER, running, stop
from toolkit.handoff.settings import ServeSettings
from toolkit.pipeline.handoff import handoff

pytestmark = pytest.mark.slow

# Faults are told to a client by its own library's error or by the socket's.
LOST = (HTTPConnectionClosed, InferenceServerException, OSError, EOFError)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_killed_server_is_an_error_for_its_clients_and_starts_again(
    handed_off: RunFolder, serve_settings: ServeSettings, tmp_path: Path, protocol: str
) -> None:
    repository = handed_off.path / "handoff" / REPOSITORY
    outcomes: list[BaseException | None] = []

    def keep_asking(address: object) -> None:
        connection = client(address, protocol)  # type: ignore[arg-type]
        try:
            while True:
                ask(connection, range(8), 40, protocol)
        except LOST as error:
            outcomes.append(error)

    with running(repository, serve_settings, tmp_path / "first.log") as server:
        threads = [threading.Thread(target=keep_asking, args=(server,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        os.killpg(server.process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    assert len(outcomes) == len(threads), "a client hangs"
    with running(repository, serve_settings, tmp_path / "second.log") as server:
        assert np.abs(ask(client(server, protocol), [1], 2, protocol)["IMAGE"][0] - reference(1, 2)).max() <= LEVEL


def test_a_stopped_server_answers_what_is_under_way(
    handed_off: RunFolder, serve_settings: ServeSettings, tmp_path: Path
) -> None:
    answers: list[np.ndarray] = []
    with running(handed_off.path / "handoff" / REPOSITORY, serve_settings, tmp_path / "serve.log") as server:
        connection = client(server)

        def ask_once() -> None:
            answers.append(ask(connection, range(8), 40)["IMAGE"])
            connection.close()  # the server waits for connections that are kept, and ends with 1 if it waited in vain

        asking = threading.Thread(target=ask_once)
        asking.start()
        time.sleep(0.15)
        stop(server, drain_s=30)
        asking.join(30)
    assert server.process.returncode == 0
    (images,) = answers
    assert np.abs(images[3] - reference(3, 40)).max() <= LEVEL


@pytest.mark.parametrize("file", ["compressed_step.onnx", "dtk_server/loop.py", "schedule.json", "expected.npy"])
def test_a_damaged_file_is_refused_by_its_hash(repository_copy: Path, serve_settings: ServeSettings, file: str) -> None:
    path = repository_copy / SETTINGS.name / "1" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x20
    path.write_bytes(content)
    with (
        pytest.raises(DtkError, match=f"{file} is damaged or was changed"),
        running(repository_copy, serve_settings, repository_copy / "serve.log"),
    ):
        pass


def _edit(repository: Path, **changes: object) -> None:
    path = repository / SETTINGS.name / "1" / "handoff.json"
    write_json(path, read_json(path) | changes)


def test_a_runtime_older_than_the_handoff_is_refused(repository_copy: Path, serve_settings: ServeSettings) -> None:
    _edit(repository_copy, requires={"onnxruntime": "99.1"})
    with (
        pytest.raises(DtkError, match=r"needs onnxruntime 99\.1 or newer; installed is 1\."),
        running(repository_copy, serve_settings, repository_copy / "serve.log"),
    ):
        pass


def _with_an_engine(repository: Path, fallback: str) -> None:
    engine = {"file": "step.plan", "package": "tensorrt_rtx", "version": "1.0", "compute_capability": ["sm89"]}
    step_graph = read_json(repository / SETTINGS.name / "1" / "handoff.json")["step_graph"]
    _edit(repository, step_graph=step_graph | {"runtime": "tensorrt", "engines": [engine], "fallback": fallback})


def test_a_plan_that_cannot_be_loaded_is_refused(repository_copy: Path, serve_settings: ServeSettings) -> None:
    _with_an_engine(repository_copy, "refuse")
    with (
        pytest.raises(DtkError, match=r"No TensorRT engine can be loaded: step\.plan: it needs tensorrt_rtx 1\.0"),
        running(repository_copy, serve_settings, repository_copy / "serve.log"),
    ):
        pass


def test_where_it_is_allowed_onnx_serves_instead_and_the_log_says_so(
    repository_copy: Path, serve_settings: ServeSettings, tmp_path: Path
) -> None:
    _with_an_engine(repository_copy, "onnxruntime")
    with running(repository_copy, serve_settings, tmp_path / "serve.log") as server:
        assert np.abs(ask(client(server), [1], 2)["IMAGE"][0] - reference(1, 2)).max() <= LEVEL
        assert "ONNX RUNTIME SERVES INSTEAD" in server.log.read_text()


def test_another_image_than_the_known_one_is_refused(repository_copy: Path, serve_settings: ServeSettings) -> None:
    manifest = read_json(repository_copy / SETTINGS.name / "1" / "handoff.json")
    _edit(repository_copy, expected=manifest["expected"] | {"seed": 1})
    with (
        pytest.raises(DtkError, match="image of seed 1 is off by"),
        running(repository_copy, serve_settings, repository_copy / "serve.log"),
    ):
        pass


def test_a_model_is_swapped_while_serving(
    exported: RunFolder, repository_copy: Path, serve_settings: ServeSettings, tmp_path: Path
) -> None:
    other = RunFolder(Path(shutil.copytree(exported.path, tmp_path / "other")))
    handoff(other, SETTINGS.model_copy(update={"default_steps": 3}))
    failures: list[Exception] = []
    done = threading.Event()

    def keep_asking(address: object) -> None:
        connection = client(address)  # type: ignore[arg-type]
        while not done.is_set():
            try:
                ask(connection, [0], 2)
            except InferenceServerException as error:
                failures.append(error)

    with running(repository_copy, serve_settings, tmp_path / "serve.log") as server:
        assert np.abs(ask(client(server), [0])["IMAGE"][0] - reference(0, 20)).max() <= LEVEL
        asking = threading.Thread(target=keep_asking, args=(server,))
        asking.start()
        model, new = repository_copy / SETTINGS.name, other.path / "handoff" / REPOSITORY / SETTINGS.name
        model.rename(tmp_path / "old")
        shutil.copytree(new, model)
        client(server, network_timeout=120).load_model(SETTINGS.name, headers={ADMIN_HEADER: server.admin_key})
        assert np.abs(ask(client(server), [0])["IMAGE"][0] - reference(0, 3)).max() <= LEVEL
        (model / "1" / "schedule.json").write_text("{}")
        with pytest.raises(InferenceServerException, match=r"schedule\.json is damaged"):
            client(server, network_timeout=120).load_model(SETTINGS.name, headers={ADMIN_HEADER: server.admin_key})
        assert np.abs(ask(client(server), [0])["IMAGE"][0] - reference(0, 3)).max() <= LEVEL  # the good one stays
        done.set()
        asking.join()
    assert not failures


SERVE = """
import sys
from pathlib import Path
from toolkit.handoff.settings import ServeSettings
from toolkit.handoff.server import serve
from toolkit.core.run_folder import RunFolder
settings = ServeSettings(http_port=0, grpc_port=0, metrics_port=0, environment=Path(sys.argv[2]), drain_s=5)
sys.exit(serve(RunFolder.open(Path(sys.argv[1])), settings, ready=lambda server: print(server.http, flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly_on_a_signal(
    handed_off: RunFolder, serve_settings: ServeSettings, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", SERVE, str(handed_off.path), str(SERVER_ENVIRONMENT)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        connection = tritonclient.http.InferenceServerClient(address)
        assert connection.is_server_ready()
        process.send_signal(number)
        assert process.wait(60) == 0
    with pytest.raises(OSError):
        connection.is_server_ready()


def test_a_server_does_not_outlive_the_command_that_is_killed(
    handed_off: RunFolder, serve_settings: ServeSettings
) -> None:
    """Nor do its own processes, while at work: they would keep ports and memory, and nobody would know of it."""
    command = [sys.executable, "-c", SERVE, str(handed_off.path), str(SERVER_ENVIRONMENT)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        host, port = address.split(":")

        def keep_asking() -> None:
            connection = tritonclient.http.InferenceServerClient(address)
            with contextlib.suppress(*LOST):
                while True:
                    ask(connection, range(8), 40)

        threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        process.kill()
    deadline = time.monotonic() + 10
    while listens(host, int(port)) or processes_at(handed_off.path):
        assert time.monotonic() < deadline, (listens(host, int(port)), processes_at(handed_off.path))
        time.sleep(0.05)


def listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def processes_at(place: Path) -> list[str]:
    """The command lines that name it: the server's, and those of its processes for Python models."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(place) in line]
