"""Where image files lie: a folder, or a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.errors import DtkError


@dataclass(frozen=True)
class StoredFiles:
    """Files in a fixed order: their names and a way to read the bytes of one by its index, from any thread."""

    source: str
    names: Sequence[str]
    read: Callable[[int], bytes]


def folder_files(folder: Path) -> StoredFiles:
    """Every file below ``folder`` that is not hidden, by relative name."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = sorted(name for name in paths if not _is_hidden(name))
    return StoredFiles(str(folder), names, lambda index: paths[names[index]].read_bytes())


def zip_files(path: Path) -> StoredFiles:
    """Every file of a zip that is not hidden, by name; a damaged zip is a DtkError."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DtkError(f"{path} is not a readable zip.", found=error, do="copy or download it again") from error
    names = sorted(info.filename for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename))
    return StoredFiles(str(path), names, lambda index: archive.read(names[index]))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
