"""Engines by what they depend on: built once, found again, rebuilt only for a reason that can be said in words."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError
from toolkit.core.files import (
    TEMPORARY,
    file_sha256,
    make_folder,
    read_json,
    replacing,
    user_cache,
    value_sha256,
    write_json,
)

PLAN, DESCRIPTION, LAYERS = "engine.plan", "engine.json", "layers.json"


@dataclass(frozen=True)
class CachedEngine:
    """A plan in the cache with its description; ``reason`` says why it was built now, None if it was there."""

    folder: Path
    reason: str | None

    @property
    def plan(self) -> Path:
        return self.folder / PLAN

    @property
    def description(self) -> dict[str, Any]:
        description: dict[str, Any] = read_json(self.folder / DESCRIPTION)
        return description

    @property
    def layers(self) -> Path:
        """What TensorRT's inspector says of its layers, if it was asked."""
        return self.folder / LAYERS

    def finding(self, name: str, find: Callable[[], Any]) -> Any:
        """What is known about the engine under ``name``: found now if it is not, and kept, so that it is found once."""
        if name not in self.description:
            value = find()  # another process may add its own meanwhile
            write_json(self.folder / DESCRIPTION, self.description | {name: value})
        return self.description[name]


def cache_folder() -> Path:
    """Where engines are kept."""
    return user_cache("engines")


class EngineCache:
    """Engines by the hash of ``facts``: ONNX content, builder, version, GPU, driver, profile and flags.

    One process builds an engine while others that need the same wait; a killed build leaves nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self, facts: Mapping[str, Any], build: Callable[[], tuple[bytes, dict[str, Any]]], waiting: Callable[[], None]
    ) -> CachedEngine:
        """The engine of ``facts``, built by ``build`` (plan, description) if it is absent or damaged.

        ``waiting`` is called if another process is building it. What ``build`` raises leaves the cache as it was.
        """
        entry = self.folder / value_sha256(dict(facts))
        with self._locked(entry, waiting):
            reason = self._reason(entry, facts)
            if reason:
                self._write(entry, facts, reason, *build())
        return CachedEngine(entry, reason)

    def _write(
        self, entry: Path, facts: Mapping[str, Any], reason: str, plan: bytes, description: dict[str, Any]
    ) -> None:
        with replacing(entry) as folder:
            folder.mkdir()
            (folder / PLAN).write_bytes(plan)
            written = {"facts": dict(facts), "sha256": file_sha256(folder / PLAN), "size_bytes": len(plan)}
            write_json(folder / DESCRIPTION, written | {"built_because": reason} | description)

    def _reason(self, entry: Path, facts: Mapping[str, Any]) -> str | None:
        """Why the engine must be built, None if a whole one is there."""
        if not entry.is_dir():
            return self._difference(facts)
        try:
            whole = read_json(entry / DESCRIPTION)["sha256"] == file_sha256(entry / PLAN)
        except (DtkError, OSError, KeyError, TypeError):
            whole = False
        return None if whole else "the engine in the cache was damaged"

    def _difference(self, facts: Mapping[str, Any]) -> str:
        """In what the nearest engine of the same ONNX file differs."""
        others = [other for other in self._known() if other.get("onnx") == facts["onnx"]]
        if not others:
            return "no engine of this ONNX file was built before"
        changes = [{name for name in facts if other.get(name) != facts[name]} for other in others]
        nearest, changed = min(zip(others, changes, strict=True), key=lambda pair: len(pair[1]))
        return "; ".join(f"{name} is {facts[name]}, was {nearest.get(name)}" for name in sorted(changed))

    def _known(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob(f"*/{DESCRIPTION}")):
            with contextlib.suppress(DtkError, KeyError, TypeError):
                yield read_json(path)["facts"]

    @contextlib.contextmanager
    def _locked(self, entry: Path, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the entry's lock, which the system frees when a process dies; clear what a killed build left."""
        make_folder(self.folder)
        with (self.folder / f"{entry.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob(f"{TEMPORARY}{entry.name}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
