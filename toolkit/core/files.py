"""Files that are either whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError

TEMPORARY = ".dtk-tmp-"
DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}
"""Errors of a disk that is full or read-only: whatever was to be done was a write."""
UNWRITABLE = DISK | {errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to ``path``; on success it takes the place of ``path``, on failure it is removed.

    Works for files and folders alike. Raises DtkError when the disk is full or not writable; other errors pass.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}.", dir=path.parent)) / path.name
    except OSError as error:
        raise write_failed(path, error) from error
    try:
        yield temporary
        _swap(temporary, path)
    except OSError as error:
        if error.errno is not None and error.errno not in UNWRITABLE:
            raise
        raise write_failed(path, error) from error
    finally:
        shutil.rmtree(temporary.parent, ignore_errors=True)


def _swap(new: Path, old: Path) -> None:
    if not old.is_dir():
        os.replace(new, old)
        return
    aside = new.parent / "replaced"  # a folder cannot be renamed over a full one: it steps aside first
    os.replace(old, aside)
    try:
        os.replace(new, old)
    except OSError:
        os.replace(aside, old)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there. Raises DtkError if the system would not let us."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(path, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written below ``folder``."""
    for leftover in list(folder.rglob(f"{TEMPORARY}*")):
        shutil.rmtree(leftover, ignore_errors=True)


def write_failed(path: Path, error: OSError) -> DtkError:
    """The error for a file that the system would not let us write."""
    return DtkError(
        f"Could not write {path}.",
        found=error.strerror or str(error),
        do="free some space or choose another folder, then run the same command again: finished stages are kept",
    )


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a half."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that dtk wrote; a damaged one is an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # absent, no JSON, nested without end
        raise DtkError(f"Cannot read {path}.", found=error, expected="a JSON file that dtk wrote") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object, such as a config; anything else is an error that names it."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DtkError(f"Cannot read {path}.", found=type(value).__name__, expected="a JSON object")
    return value


def user_cache(kind: str) -> Path:
    """Where what outlives a run is kept: ``kind`` below $DTK_CACHE, or below dtk in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DTK_CACHE") or Path(base) / "dtk") / kind


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Every file below ``folder``, through links as well, and links to nothing; what is hidden is left out.

    A link that leads back to one of the folders ``above`` it (device, inode) is not followed.
    """
    here = folder.stat()
    if (here.st_dev, here.st_ino) in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from files_below(path, (*above, (here.st_dev, here.st_ino)))
        elif path.is_file() or not path.exists():  # neither a pipe nor a device
            yield path


CARD = ("README.md", "card")
"""What stands in a model's folder about the model and is no part of it: its card, and what the card shows."""


def folder_sha256(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by its relative POSIX path, but for the entries ``without`` of it.

    Temporary and other hidden files are left out, and what Python writes next to its modules when they are imported.
    """
    names = [(path, path.relative_to(folder)) for path in sorted(files_below(folder)) if path.is_file()]
    return {
        name.as_posix(): file_sha256(path)
        for path, name in names
        if name.parts[0] not in without and "__pycache__" not in name.parts
    }


def files_sha256(hashes: Mapping[str, str]) -> str:
    """One SHA-256 for several files by the hash of each, whatever they are called."""
    return value_sha256(sorted(hashes.values()))


def value_sha256(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
