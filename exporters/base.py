"""What is written beyond the ONNX files, by name; one file each, with its ``EXPORTER``.

`dtk export` always writes ONNX. An exporter turns those files, or the models themselves, into another form: a stage of
its own behind the ONNX files, kept in RUN/<folder>.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import exporters
from exporters.settings import NEWEST_OPSET, OLDEST_OPSET, ExportSettings
from toolkit.core.progress import Progress
from toolkit.core.registry import entries, entry
from toolkit.models.folder import ModelFolder

NAMES = ("dense", "compressed")


@dataclass(frozen=True)
class Exported:
    """What an exporter starts from: the run's folder, its ONNX files' descriptions by name, both models, settings."""

    run: Path
    onnx: Mapping[str, dict[str, Any]]
    models: Mapping[str, ModelFolder]
    settings: ExportSettings


class Exporter(Protocol):
    """Writes another form of a run's models."""

    name: str
    folder: str  # in the run
    key: str  # of its result in what `export` returns

    def description(self) -> str:
        """What it writes, or why it cannot be written here."""
        ...

    def check(self, models: Mapping[str, ModelFolder], settings: ExportSettings) -> None:
        """Raise UsageError, before anything is exported, for models that have no such form."""
        ...

    def inputs(self, exported: Exported) -> tuple[dict[str, Any], dict[str, str]]:
        """The settings and the hashes of all that it reads: equal ones, equal files."""
        ...

    def write(self, folder: Path, exported: Exported, progress: Progress) -> dict[str, Any]:
        """Write the files to ``folder``; returns what is to be recorded next to them."""
        ...

    def result(self, exported: Exported, record: Mapping[str, Any]) -> dict[str, Any]:
        """What was written, as JSON; ``record`` is the run's record of it."""
        ...


def exporter_called(name: str) -> Exporter:
    """The exporter of that name; an unknown one is refused with the list of known ones."""
    exporter: Exporter = entry(_exporters(), "exporter", name)
    return exporter


def _exporters() -> dict[str, Exporter]:
    return entries(exporters, "EXPORTER", Exporter)


def known_exporters() -> dict[str, str]:
    """Names of what `dtk export` writes, with a description, or with the reason why it cannot be written here."""
    onnx = f"denoiser, sampling step and what stands around them; opset {OLDEST_OPSET} to {NEWEST_OPSET}"
    return {"onnx": onnx} | {name: exporter.description() for name, exporter in _exporters().items()}
