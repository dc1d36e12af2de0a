"""Images as PNG bytes, with only the standard library (ISO/IEC 15948: signature, IHDR, IDAT, IEND)."""

from __future__ import annotations

import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 3: 2}  # channels: grey, RGB
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as uint8, rounded to nearest."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    """One image (C, H, W) in [0, 1], C = 1 or 3, as an 8-bit PNG."""
    channels, height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    rows = to_uint8(image).transpose(1, 2, 0).reshape(height, width * channels)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # every row opens with its filter's number, 0 for none
    body = zlib.compress(unfiltered.tobytes())
    return SIGNATURE + b"".join(_chunk(*part) for part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
