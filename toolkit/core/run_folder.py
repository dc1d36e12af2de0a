"""The folder a job leaves: the only thing that passes between stages.

``run.json`` records, for every finished stage, its settings, the hashes of what it read and wrote, the versions,
the machine, the seed and the time. A stage whose record still fits is not run again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.core.environment import machine, versions
from toolkit.core.errors import DtkError
from toolkit.core.files import CARD, folder_sha256, read_json, remove_leftovers, replacing, value_sha256, write_json

SCHEMA_VERSION = 2
MODEL = "model"
"""The result's folder in a run: the one in which a model card may be written."""


@dataclass(frozen=True)
class Request:
    """What a stage is to do: its settings and the hashes of all it reads. Equal requests, equal results."""

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        return value_sha256([self.stage, dict(self.settings), dict(self.inputs)])


class RunFolder:
    """A run folder: ``create`` makes it or opens an existing one, ``open`` needs it to be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder, or open the one that is there; leftovers of a killed process are removed.

        A folder of other things is refused.
        """
        if path.exists() and not path.is_dir():
            raise DtkError(f"Cannot use {path} as a run folder.", found="a file", expected="a folder or a new name")
        remove_leftovers(path)
        if path.is_dir() and any(path.iterdir()) and not (path / "run.json").exists():
            raise DtkError(
                f"Cannot use {path} as a run folder.",
                found="a folder with other things in it and no run.json",
                expected="a run folder of dtk, an empty folder or a new name",
            )
        run = cls(path)
        if not (path / "run.json").exists():
            run.forget()
        run.record()
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run folder at ``path``; an error if there is none, or if a newer dtk wrote it."""
        if not (path / "run.json").is_file():
            raise DtkError(
                f"{path} is not a run folder.",
                found="no run.json" if path.exists() else "no such folder",
                expected="a folder that `dtk compress -o` or `dtk run` made",
                do="name such a folder, or make one: dtk compress MODEL --data IMAGES -o RUN",
            )
        run = cls(path)
        run.record()
        return run

    def record(self) -> dict[str, Any]:
        """The contents of run.json, checked for a schema this version can read."""
        record: dict[str, Any] = read_json(self.path / "run.json")
        if record.get("schema_version") != SCHEMA_VERSION:
            raise DtkError(
                f"{self.path} was written by another version of dtk.",
                found=f"schema version {record.get('schema_version')}",
                expected=f"schema version {SCHEMA_VERSION}",
                do="use the dtk that wrote it, or choose a new run folder",
            )
        return record

    def stage(self, name: str) -> dict[str, Any] | None:
        """The record of a finished stage, None if it has not finished."""
        record: dict[str, Any] | None = self.record()["stages"].get(name)
        return record

    def require(self, name: str, command: str) -> dict[str, Any]:
        """The record of a stage that must have finished; ``command`` is what would run it."""
        record = self.stage(name)
        if record is None:
            raise DtkError(
                f"{self.path} has no finished {name} stage.",
                found=f"finished: {', '.join(self.record()['stages']) or 'nothing'}",
                do=command,
            )
        return record

    def is_current(self, request: Request) -> bool:
        """Whether the stage has finished on exactly this request and its files are still what it wrote."""
        record = self.stage(request.stage)
        if record is None or record["key"] != request.key:
            return False
        return all(
            (self.path / folder).is_dir() and self._hashes(folder) == hashes
            for folder, hashes in record["outputs"].items()
        )

    def finish(
        self,
        request: Request,
        outputs: tuple[str, ...],
        *,
        seconds: float,
        device: str = "cpu",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a finished stage: hash the folders it wrote and note where it ran."""
        record = self.record()
        record["stages"][request.stage] = {
            "key": request.key,
            "settings": dict(request.settings),
            "inputs": dict(request.inputs),
            "outputs": {folder: self._hashes(folder) for folder in outputs},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "versions": versions(),
            "machine": machine(device),
            **(facts or {}),
        }
        self._write(record)

    @contextlib.contextmanager
    def writing(
        self, request: Request, *, device: str = "cpu", facts: Mapping[str, Any] | None = None
    ) -> Iterator[Path]:
        """Yield a temporary folder for an all-or-nothing stage; on success it becomes RUN/<stage> and is recorded.

        ``facts`` may be filled while the stage runs; they are read when it ends.
        """
        started = time.monotonic()
        with replacing(self.path / request.stage) as folder:
            folder.mkdir()
            yield folder
        self.finish(request, (request.stage,), seconds=time.monotonic() - started, device=device, facts=facts)

    def forget(self) -> None:
        """Forget every stage; what they wrote is kept."""
        self._write({"schema_version": SCHEMA_VERSION, "stages": {}})

    def _hashes(self, folder: str) -> dict[str, str]:
        return folder_sha256(self.path / folder, CARD if folder == MODEL else ())

    def _write(self, record: dict[str, Any]) -> None:
        write_json(self.path / "run.json", record)
