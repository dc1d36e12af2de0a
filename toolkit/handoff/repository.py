"""The folder a server takes: a Triton model repository, and what a person needs around it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from string import Template

from toolkit.core import noise
from toolkit.core.files import write_json, write_text
from toolkit.handoff.engines import Engine
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import configuration, dumps

REPOSITORY = "model_repository"
VERSION = "1"
PROGRAMS = ("model.py", "client.py")  # lie next to the package that is copied, not in it
FILLED_IN = ("README.md", "Dockerfile", "compose.yaml", "kubernetes.yaml")


GPU = {
    "gpu_service": "\n    deploy: {resources: {reservations: {devices: [{driver: nvidia, capabilities: [gpu]}]}}}",
    "gpu_pod": "\n          resources: {limits: {nvidia.com/gpu: 1}}",
}
"""What compose.yaml and kubernetes.yaml say about a GPU if the model runs on one."""


def write_repository(
    folder: Path, graph: StepGraph, settings: HandoffSettings, max_batch: int, engines: Sequence[Engine] = ()
) -> Path:
    """Write the model repository below ``folder``; returns the folder of the model's version."""
    model = folder / REPOSITORY / settings.name
    version = model / VERSION
    version.mkdir(parents=True)
    write_text(model / "config.pbtxt", dumps(configuration(graph, settings, max_batch)))
    for file in graph.files:
        shutil.copyfile(file, version / file.name)
    for engine in engines:
        shutil.copyfile(engine.path, version / engine.file)
    write_json(version / "schedule.json", graph.schedule(graph.served(settings)))
    copy_server(version)
    return version


def copy_server(version: Path) -> None:
    """Copy the server's code to a model version: model.py, the package dtk_server, and in it toolkit/core/noise.py."""
    with as_file(files("toolkit.handoff")) as source:
        shutil.copyfile(source / "dtk_server" / "model.py", version / "model.py")
        shutil.copytree(
            source / "dtk_server", version / "dtk_server", ignore=shutil.ignore_patterns("__pycache__", *PROGRAMS)
        )
    shutil.copyfile(noise.__file__, version / "dtk_server" / "noise.py")


def write_deployment(folder: Path, values: dict[str, str]) -> None:
    """Write README.md, Dockerfile, compose.yaml, kubernetes.yaml and client.py next to the repository."""
    source = files("toolkit.handoff")
    for name in FILLED_IN:
        write_text(
            folder / name, Template((source / "templates" / name).read_text(encoding="utf-8")).substitute(values)
        )
    write_text(folder / "client.py", (source / "dtk_server" / "client.py").read_text(encoding="utf-8"))
