"""One dtk command at a time on a run folder.

The lock is the system's, on the folder itself: no file tells of it, nothing can go stale, and a process that is killed
gives it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from toolkit.core import processes
from toolkit.core.errors import DtkError
from toolkit.core.files import DISK, make_folder, remove_leftovers, write_failed

LOCKS = Path("/proc/locks")


@contextlib.contextmanager
def held(path: Path, *, make: bool = False) -> Iterator[None]:
    """Hold the run folder at ``path``; if there is none, nothing is held, or with ``make`` it is made.

    What a killed process left half written in a run is removed, as is a folder that was made and stayed empty. Raises
    DtkError if another process holds it, if it cannot be made, and if what is done meanwhile finds a disk full or
    read-only. On a file system without locks nothing is held.
    """
    if not processes.is_main():  # a launcher's main process holds it for all of them
        yield
        return
    made = make and not path.exists()
    if made:
        make_folder(path)
    if not path.is_dir():
        yield
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _lock(folder, path) and (path / "run.json").is_file():
            remove_leftovers(path)  # whoever left them is dead
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise write_failed(Path(error.filename or path), error) from error
    finally:
        os.close(folder)
        if made:
            with contextlib.suppress(OSError):  # full by now
                path.rmdir()


def _lock(folder: int, path: Path) -> bool:
    """Whether the lock is held; a file system may have none."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(os.fstat(folder).st_ino)
        raise DtkError(
            f"Another dtk command is at work in {path}.",
            found=f"process {holder}" if holder else None,
            do="wait until it has ended, end it, or choose another folder",
        ) from None
    except OSError:
        return False
    return True


def _holder(inode: int) -> str | None:
    """The process that holds a lock on this inode, if the system tells."""
    with contextlib.suppress(OSError):
        for line in LOCKS.read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and fields[5].endswith(f":{inode}") and fields[4].isdigit() and fields[4] != "0":
                return fields[4]
    return None
