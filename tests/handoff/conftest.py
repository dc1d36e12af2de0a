"""A run that was handed off, and a real server on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.handoff.step_model import MAX_STEPS, run_with_step_graph
from toolkit.core.run_folder import RunFolder
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import Server, running
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.pipeline.handoff import handoff

SERVER_ENVIRONMENT = ROOT / ".venv-server"
SETTINGS = HandoffSettings(max_steps=MAX_STEPS, queue_timeout_ms=300_000, max_queue_size=1000)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_with_step_graph(tmp_path_factory.mktemp("handoff") / "run")


@pytest.fixture(scope="session")
def handed_off(exported: RunFolder) -> RunFolder:
    handoff(exported, SETTINGS)
    return exported


@pytest.fixture(scope="session")
def serve_settings() -> ServeSettings:
    if not SERVER_ENVIRONMENT.is_dir():
        pytest.skip(f"no tritonserver: {SERVER_ENVIRONMENT.name} is missing (`make install` makes it)")
    # a client that keeps its connection makes the server wait this long for it
    return ServeSettings(http_port=0, grpc_port=0, metrics_port=0, environment=SERVER_ENVIRONMENT, drain_s=5)


@pytest.fixture(scope="module")
def server(
    handed_off: RunFolder, serve_settings: ServeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "serve.log"
    with running(handed_off.path / "handoff" / REPOSITORY, serve_settings, log) as started:
        yield started


@pytest.fixture
def repository_copy(handed_off: RunFolder, tmp_path: Path) -> Path:
    """A repository that a test may damage."""
    import shutil

    return Path(shutil.copytree(handed_off.path / "handoff" / REPOSITORY, tmp_path / REPOSITORY))
