"""What data says about its images besides their pixels: a class, a caption, or nothing.

A folder or zip with one subfolder per class gives classes (torchvision's ImageFolder and `datasets` imagefolder: ids
are the ranks of the sorted names); names that are numbers are the ids themselves. A ``metadata.jsonl`` in its root, as
`datasets` imagefolder has it, gives captions and classes by ``file_name``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from toolkit.core.errors import DtkError

Condition = int | str | None
"""A class id, a caption, or None: the null condition."""
Kind = Literal["none", "class", "caption"]

METADATA = "metadata.jsonl"
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "class": ("label", "labels", "class"),
    "caption": ("text", "caption", "captions", "prompt"),
}
"""The names that fields, columns and arrays of each kind go by."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of a source's images by kind, one per image; a kind is absent if the source says nothing.

    ``class_names`` are the names whose ranks are the class ids, empty if the ids are the source's own.
    """

    values: Mapping[Kind, tuple[Condition, ...]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def select(self, numbers: Iterable[int]) -> Conditions:
        """The conditions of the images with these numbers, in their order."""
        chosen = list(numbers)
        return Conditions({kind: tuple(v[n] for n in chosen) for kind, v in self.values.items()}, self.class_names)

    def with_ids_of(self, names: Sequence[str], where: str) -> Conditions:
        """The same, with class ids that are ranks in ``names``. Raises DtkError for a class that is not among them."""
        if unknown := sorted({*self.class_names} - {*names}):
            raise DtkError(
                f"{where} has classes that the training images do not have.",
                found=", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else ""),
                expected=", ".join(names[:6]) + (", ..." if len(names) > 6 else ""),
            )
        ids: dict[Condition, int] = {rank: names.index(name) for rank, name in enumerate(self.class_names)}
        classes = tuple(None if rank is None else ids[rank] for rank in self.values["class"])
        return Conditions({**self.values, "class": classes}, tuple(names))


def of_names(names: Sequence[str]) -> Conditions:
    """Classes from the subfolders that images lie in; none if they do not all lie in one of several.

    Files that are not named as images, such as a README, have no say and no class.
    """
    endings = Image.registered_extensions()
    images = [name for name in names if PurePosixPath(name).suffix.lower() in endings] or names
    parts = {name: PurePosixPath(name).parts for name in images}
    while parts and all(len(part) > 1 for part in parts.values()) and len({part[0] for part in parts.values()}) == 1:
        parts = {name: part[1:] for name, part in parts.items()}
    if not parts or any(len(part) == 1 for part in parts.values()):
        return Conditions()
    folders = sorted({part[0] for part in parts.values()})
    numbered = all(folder.isdecimal() for folder in folders)
    ids = {folder: int(folder) if numbered else rank for rank, folder in enumerate(folders)}
    classes = tuple(ids[parts[name][0]] if name in parts else None for name in names)
    return Conditions({"class": classes}, () if numbered else tuple(folders))


def of_metadata(content: bytes, names: Sequence[str], where: str) -> Conditions:
    """The conditions that a metadata.jsonl gives the files ``names``; None for a file it does not list.

    Raises DtkError for a line that is no JSON object with a ``file_name``.
    """
    lines = [line for line in content.decode("utf-8-sig", "replace").split("\n") if line.strip()]
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries[str(entry["file_name"])] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise DtkError(
                f"Line {number} of {METADATA} in {where} describes no image.",
                found=line[:80],
                expected='a line such as {"file_name": "0001.png", "text": "a cat"}',
            ) from error
    by_kind: dict[Kind, tuple[Condition, ...]] = {}
    for kind, columns in COLUMNS.items():
        column = next((name for name in columns if any(name in entry for entry in entries.values())), None)
        if column is not None:
            by_kind[kind] = checked(kind, [entries.get(name, {}).get(column) for name in names], f"{where}: {column}")
    return Conditions(by_kind)


def checked(kind: Kind, values: Iterable[Any], where: str) -> tuple[Condition, ...]:
    """The values as classes (integers) or captions (text), None staying None; DtkError for anything else."""
    wanted = (int, np.integer) if kind == "class" else (str,)
    plain = tuple(values)
    wrong = [value for value in plain if value is not None and (not isinstance(value, wanted) or value is True)]
    if wrong:
        what = "a class id, 0 or more" if kind == "class" else "text"
        raise DtkError(f"{where} does not hold one {kind} per image.", found=repr(wrong[0])[:80], expected=what)
    return tuple(int(v) if isinstance(v, np.integer) else v for v in plain)
