"""A data set of the Hugging Face hub, through the `datasets` package."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from toolkit.data.conditions import COLUMNS, Condition, Conditions, Kind, checked
from toolkit.data.stored import StoredFiles
from toolkit.errors import DtkError, MissingToolError


def hub_files(source: str) -> StoredFiles:
    """The image column of a data set ``name`` or ``name:split`` (split ``train`` unless said), with its conditions.

    These come from the columns called label (classes), and text, caption or prompt.

    Raises MissingToolError without the `datasets` package, DtkError if the hub does not give the data set or it holds
    no images.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise MissingToolError(
            f"Reading the data set {source} from the hub needs the package datasets.",
            found=f"{error}; and no file or folder is called {source}",
            do="pip install datasets",
        ) from error
    name, _, split = source.partition(":")
    try:
        table: Any = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the hub client raises many kinds: not found, gated, offline, no such split
        raise DtkError(
            f"No such data: {source} is no local file or folder, and the hub did not give it.",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a folder, a zip, an .npz, or a data set of the hub (name or name:split)",
        ) from error
    columns = [column for column, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise DtkError(f"The data set {source} has no images.", found=f"the columns {', '.join(table.features)}")
    encoded = table.cast_column(columns[0], datasets.Image(decode=False)).select_columns(columns[0])

    def read(index: int) -> bytes:
        cell = encoded[index][columns[0]]
        content: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return content

    return StoredFiles(source, [f"row {number}" for number in range(len(encoded))], read, _conditions(table, source))


def _conditions(table: Any, source: str) -> Conditions:
    found: dict[Kind, tuple[Condition, ...]] = {}
    for kind, names in COLUMNS.items():
        column = next((name for name in names if name in table.features), None)
        if column is not None:
            found[kind] = checked(kind, table[column], f"{source}: {column}")
    return Conditions(found)
