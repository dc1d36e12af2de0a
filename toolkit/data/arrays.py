"""Images that are stored as arrays: an .npz, and the embedded default."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.core.errors import DtkError
from toolkit.data.conditions import COLUMNS, Condition, Conditions, Kind, checked
from toolkit.data.images import Images
from toolkit.data.prepare import COVER, MODES, Fit, prepare

DEFAULT_IMAGES = Path(__file__).parents[1] / "default" / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
"""Fashion-MNIST's 10,000 test images (MIT), which the embedded model was not trained on."""
EMBEDDED = "fashion-mnist (embedded)"
IDX_HEADER_BYTES = 16
ABSENT: dict[Kind, Condition] = {"class": -1, "caption": ""}  # the null condition in an array
PADDED = 32  # 28x28 images get a black border of two
UNREADABLE = (
    *(ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError),
    *(TypeError, MemoryError),  # an .npy by the name of .npz; a header that speaks of terabytes
)
"""What numpy raises for a file that is no whole .npz."""


def npz_images(path: Path, shape: tuple[int, int, int], fit: Fit = COVER) -> Images:
    """The images of an .npz: its array ``images``, ``arr_0`` or only array.

    It is uint8 (N, H, W, C), (N, C, H, W) or, grey, (N, H, W). Images of another size are
    brought to ``shape`` (C, H, W) as ``fit`` says. Arrays ``labels`` (N,) of integers, -1 for none, and ``captions``
    (N,) of text give their conditions. Raises DtkError if the file is damaged or pickled, holds no such array, or
    has other channels than the model.
    """
    arrays = _load(path)
    stored = _channels_last(_images_of(arrays, path), shape[0], path)
    conditions = _conditions(arrays, len(stored), path)
    digest = hashlib.sha256(str(stored.shape).encode() + stored.tobytes()).hexdigest()
    if stored.shape[1:3] == shape[1:]:
        return _of_array(str(path), stored, shape, digest, "as stored", conditions)
    if shape[0] not in MODES:
        raise DtkError(
            f"The images of {path} do not have the model's size, and only grey and RGB images can be resized.",
            found=f"{stored.shape[2]}x{stored.shape[1]}",
            expected=f"{shape[2]}x{shape[1]}",
        )
    resized = np.stack([prepare(Image.fromarray(one.squeeze()), shape, fit).pixels for one in stored])
    return _of_array(str(path), resized, shape, digest, fit.words(*shape[1:]), conditions)


def embedded_images(shape: tuple[int, int, int]) -> Images:
    """Fashion-MNIST's 10,000 test images: 28x28 padded with black to 32x32, then mean-pooled to the model's size."""
    channels, height, width = shape
    if channels != 1 or height != width or PADDED % height:
        raise DtkError(
            "The embedded images do not fit this model.",
            found=f"a model of {channels} channels at {width}x{height}",
            expected="1 channel at 32x32, 16x16 or 8x8",
            do="give the images the model was trained on: --data",
        )
    content = gzip.decompress(DEFAULT_IMAGES.read_bytes())
    stored = np.frombuffer(content, np.uint8, offset=IDX_HEADER_BYTES).reshape(-1, 28, 28)
    padded = np.pad(stored, ((0, 0), (2, 2), (2, 2)))
    pool = PADDED // height
    pooled = padded.reshape(-1, height, pool, width, pool).mean(axis=(2, 4)).round().astype(np.uint8)
    how = f"padded with black to 32x32, mean-pooled {pool}x{pool}" if pool > 1 else "padded with black to 32x32"
    return _of_array(EMBEDDED, pooled[..., None], shape, hashlib.sha256(content).hexdigest(), how)


def _of_array(
    source: str,
    pixels: np.ndarray,
    shape: tuple[int, int, int],
    digest: str,
    how: str,
    conditions: Conditions | None = None,
) -> Images:
    numbers = tuple(range(len(pixels)))
    return Images(source, shape, digest, numbers, lambda number: pixels[number], (), how, conditions or Conditions())


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except UNREADABLE as error:
        raise DtkError(f"Cannot read {path}.", found=error, expected="an .npz with a uint8 array of images") from error


def _images_of(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    described = {name for names in COLUMNS.values() for name in names}
    images = [name for name in arrays if name not in described]
    name = next((n for n in ("images", "arr_0") if n in arrays), images[0] if len(images) == 1 else None)
    if name is None:
        raise DtkError(
            f"{path} does not say which of its arrays holds the images.",
            found=", ".join(arrays) or "no arrays",
            expected="an array called images or arr_0, or a single array",
        )
    return arrays[name]


def _conditions(arrays: dict[str, np.ndarray], count: int, path: Path) -> Conditions:
    by_kind: dict[Kind, tuple[Condition, ...]] = {}
    for kind, names in COLUMNS.items():
        name = next((name for name in names if name in arrays), None)
        if name is not None:
            if arrays[name].shape != (count,):
                raise DtkError(
                    f"The array {name} of {path} does not hold one {kind} per image.",
                    found=f"shape {arrays[name].shape}",
                    expected=f"({count},)",
                )
            values = [None if value == ABSENT[kind] else value for value in arrays[name].tolist()]
            by_kind[kind] = checked(kind, values, f"{path}: {name}")
    return Conditions(by_kind)


def _channels_last(stored: np.ndarray, channels: int, path: Path) -> np.ndarray:
    if stored.ndim == 3:
        stored = stored[..., None]
    if stored.ndim == 4 and stored.dtype == np.uint8 and stored.size:
        if stored.shape[3] == channels:
            return stored
        if stored.shape[1] == channels:
            return stored.transpose(0, 2, 3, 1)
    raise DtkError(
        f"The images of {path} do not have the model's number of channels, or are no images.",
        found=f"a {stored.dtype} array of shape {stored.shape}",
        expected=f"uint8, (N, H, W, {channels}) or (N, {channels}, H, W): the model has {channels} channels",
    )
