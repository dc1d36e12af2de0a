"""Where image files lie: a folder, or a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from toolkit.core.errors import DtkError
from toolkit.core.files import files_below
from toolkit.data.conditions import METADATA, Conditions, of_metadata, of_names


@dataclass(frozen=True)
class StoredFiles:
    """Files in a fixed order: their names and a way to read the bytes of one by its index, from any thread.

    ``conditions`` are those of the files, in the same order.
    """

    source: str
    names: Sequence[str]
    read: Callable[[int], bytes]
    conditions: Conditions = field(default_factory=Conditions)


def folder_files(folder: Path) -> StoredFiles:
    """Every file below ``folder`` that is not hidden, by relative name; links to files and folders are followed.

    A link to nothing counts as a file, which cannot be read. Raises DtkError for a folder that cannot be read.
    """
    try:
        names = sorted(path.relative_to(folder).as_posix() for path in files_below(folder))
    except OSError as error:
        raise DtkError(f"Cannot read the folder {error.filename}.", found=error.strerror) from error
    return _described(StoredFiles(str(folder), names, lambda index: (folder / names[index]).read_bytes()))


def zip_files(path: Path) -> StoredFiles:
    """Every file of a zip that is not hidden, by name; a damaged zip is a DtkError."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DtkError(f"{path} is not a readable zip.", found=error, do="copy or download it again") from error
    files = {info.filename for info in archive.infolist() if not info.is_dir()}  # of several of a name the last is read
    names = sorted(name for name in files if not _is_hidden(name))
    return _described(StoredFiles(str(path), names, lambda index: archive.read(names[index])))


def _described(files: StoredFiles) -> StoredFiles:
    """The files without their metadata.jsonl, with the conditions that it and the subfolders give."""
    if METADATA not in files.names:
        return replace(files, conditions=of_names(files.names))
    content = files.read(files.names.index(METADATA))
    kept = [index for index, name in enumerate(files.names) if name != METADATA]
    names = [files.names[index] for index in kept]
    folders, listed = of_names(names), of_metadata(content, names, files.source)
    class_names = () if "class" in listed.values else folders.class_names
    conditions = Conditions({**folders.values, **listed.values}, class_names)
    return StoredFiles(files.source, names, lambda index: files.read(kept[index]), conditions)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
