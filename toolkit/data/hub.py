"""A data set of the Hugging Face hub, through the `datasets` package: downloaded whole, or its first rows streamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError, MissingToolError, first_line
from toolkit.core.progress import Progress, silent
from toolkit.data.conditions import COLUMNS, Condition, Conditions, Kind, checked
from toolkit.data.stored import StoredFiles


def hub_files(source: str, stream: int | None = None, progress: Progress = silent) -> StoredFiles:
    """The image column of a data set ``name`` or ``name:split`` (split ``train`` unless said), with its conditions.

    These come from the columns called label (classes), and text, caption or prompt. With ``stream`` only that many
    first rows are read, as they come; until the process ends their bytes lie in a file without a name.

    Raises MissingToolError without the `datasets` package, DtkError if the hub does not give the data set or it holds
    no images.
    """
    datasets = _datasets(source)
    name, _, split = source.partition(":")
    try:
        table: Any = datasets.load_dataset(name, split=split or "train", streaming=stream is not None)
    except Exception as error:  # the hub client raises many kinds: not found, gated, offline, no such split
        raise _not_given(source, error) from error
    features = table.features or {}
    columns = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise DtkError(
            f"The data set {source} has no images.",
            found=f"the columns {', '.join(features)}" if features else "columns that it does not name",
        )
    described = {kind: column for kind, names in COLUMNS.items() if (column := _first(names, features)) is not None}
    encoded = table.cast_column(columns[0], datasets.Image(decode=False))
    wanted = encoded.select_columns([columns[0], *described.values()])
    if stream is None:
        values = {kind: wanted[column] for kind, column in described.items()}
        return _files(source, len(wanted), lambda row: _content(wanted[row][columns[0]]), values)
    return _streamed(source, wanted, columns[0], described, stream, progress)


def _streamed(
    source: str, rows: Iterable[Any], column: str, described: dict[Kind, str], count: int, progress: Progress
) -> StoredFiles:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as what reads from it
    places: list[tuple[int, int]] = []
    values: dict[Kind, list[Any]] = {kind: [] for kind in described}
    try:
        for row in islice(rows, count):
            content = _content(row[column])
            places.append((spool.tell(), len(content)))
            spool.write(content)
            for kind, name in described.items():
                values[kind].append(row[name])
            progress("streaming images", len(places), count)
    except OSError as error:  # the hub's client, or a full disk
        raise _not_given(source, error) from error
    spool.flush()
    progress("streaming images", count, count)

    def read(index: int) -> bytes:
        start, size = places[index]
        return os.pread(spool.fileno(), size, start)  # from any thread, without a position in common

    return _files(source, len(places), read, values)


def _files(source: str, count: int, read: Callable[[int], bytes], values: dict[Kind, Any]) -> StoredFiles:
    by_kind: dict[Kind, tuple[Condition, ...]] = {k: checked(k, v, f"{source}: {k}") for k, v in values.items()}
    return StoredFiles(source, [f"row {number}" for number in range(count)], read, Conditions(by_kind))


def _content(cell: dict[str, Any]) -> bytes:
    content: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    return content


def _first(names: Iterable[str], features: Iterable[str]) -> str | None:
    return next((name for name in names if name in features), None)


def _datasets(source: str) -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise MissingToolError(
            f"Reading the data set {source} from the hub needs the package datasets.",
            found=f"{error}; and no file or folder is called {source}",
            do="pip install datasets",
        ) from error


def _not_given(source: str, error: Exception) -> DtkError:
    return DtkError(
        f"No such data: {source} is no local file or folder, and the hub did not give it.",
        found=first_line(error),
        expected="a folder, a zip, an .npz, or a data set of the hub (name or name:split)",
    )
