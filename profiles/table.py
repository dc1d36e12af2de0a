"""Measurements on disk, one file an entry, in a folder named by all that they depend on.

An interrupted measurement resumes at the next entry, and another device, precision or version has a table of its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError
from toolkit.core.files import make_folder, read_json, value_sha256, write_json

Entry = dict[str, Any]


class Table:
    """The entries below ``folder`` that depend on ``facts``."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        self.folder = folder / value_sha256(self.facts)[:16]

    def get(
        self,
        place: Mapping[str, Any],
        measure: Callable[[], Entry],
        is_whole: Callable[[Entry], bool] = bool,
        is_worth_keeping: Callable[[Entry], bool] = bool,
    ) -> Entry:
        """The entry of ``place``, measured if the table has none that is whole. One process measures at a time."""
        path = self.folder / f"{value_sha256(dict(place))[:16]}.json"
        if (value := _read(path, is_whole)) is not None:
            return value
        with self._alone():
            if (value := _read(path, is_whole)) is not None:  # another process measured it meanwhile
                return value
            entry = measure()
        if is_worth_keeping(entry):
            write_json(path, {"place": dict(place), "entry": entry})
        return entry

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that measure at once would measure each other; the system frees the lock of a dead one."""
        make_folder(self.folder)
        if not (self.folder / "table.json").exists():
            write_json(self.folder / "table.json", self.facts)
        with (self.folder.parent / "measuring.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read(path: Path, is_whole: Callable[[Entry], bool]) -> Entry | None:
    """The entry at ``path``; None if there is none, or a damaged one."""
    with suppress(DtkError, KeyError, TypeError):
        entry: Entry = read_json(path)["entry"]
        return entry if is_whole(entry) else None
    return None
