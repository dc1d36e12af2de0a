"""A library's code for one GPU alone: that of others is zeroed in its fat binaries, so that it packs to a fraction.

A fat binary is a header (magic, version, its size, the size of what follows) and entries, each of a header (kind: PTX
or code, its size, the size of what follows, the architecture at byte 28) and a body; the driver takes the body of its
GPU. One without code for that GPU stays whole, as the driver compiles its PTX.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER, ARCHITECTURE_AT, CODE = 16, 28, 2
Entry = tuple[int, int, slice]
"""Kind, architecture (90 is compute capability 9.0), and where the body lies."""


def thin(path: Path, architecture: int) -> int:
    """Zero what no GPU of ``architecture`` runs; returns the bytes that were zeroed."""
    data = bytearray(path.read_bytes())
    zeroed = 0
    for entries in list(fat_binaries(bytes(data))):
        if any(entry[:2] == (CODE, architecture) for entry in entries):
            for body in (body for kind, of, body in entries if (kind, of) != (CODE, architecture)):
                zeroed += body.stop - body.start
                data[body] = bytes(body.stop - body.start)
    path.write_bytes(data)
    return zeroed


def fat_binaries(data: bytes) -> Iterator[list[Entry]]:
    """The entries of each fat binary in a file; bytes that only begin like one are passed over."""
    at = data.find(MAGIC)
    while at >= 0:
        version, header, size = _unpacked("<HHQ", data, at + len(MAGIC)) or (0, 0, 0)
        end = at + header + size
        entries = _entries(data, at + header, end) if (version, header) == (1, HEADER) and end <= len(data) else None
        if entries is not None:
            yield entries
        at = data.find(MAGIC, at + len(MAGIC) if entries is None else end)


def _entries(data: bytes, at: int, end: int) -> list[Entry] | None:
    """The entries between ``at`` and ``end``; None if they do not fill it."""
    found = []
    while at < end:
        kind, _, header, size = _unpacked("<HHIQ", data, at) or (0, 0, 0, 0)
        if header < ARCHITECTURE_AT + 4 or at + header + size > end:
            return None
        (architecture,) = struct.unpack_from("<I", data, at + ARCHITECTURE_AT)
        at += header + size
        found.append((kind, architecture, slice(at - size, at)))
    return found


def _unpacked(form: str, data: bytes, at: int) -> tuple[int, ...] | None:
    return struct.unpack_from(form, data, at) if at + struct.calcsize(form) <= len(data) else None
