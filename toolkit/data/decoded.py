"""Stored image files as Images: every file is decoded once, bad ones are named and left out."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from toolkit.core.errors import DtkError
from toolkit.core.progress import Progress, silent
from toolkit.data.images import Images
from toolkit.data.prepare import COVER, Fit, Prepared, UnreadableImageError, check_shape, decode
from toolkit.data.stored import StoredFiles

MEMORY_BYTES = 2**30  # decoded images are kept while they take no more than this; beyond, they are decoded when read
AT_ONCE = 1024  # files that threads are given at once: with all of a large set the first would be told of late
KINDS = {1: "grey (1 channel)", 3: "colour (3 channels)"}


@dataclass(frozen=True)
class _Checked:
    digest: bytes
    reason: str | None  # why it cannot be used
    prepared: Prepared | None  # absent if it cannot be used or is not kept
    recoloured: bool = False
    enlarged: bool = False


def images_of_files(
    files: StoredFiles, shape: tuple[int, int, int], progress: Progress = silent, fit: Fit = COVER
) -> Images:
    """Check every file and return the readable images, brought to ``shape`` (C, H, W) as ``fit`` says.

    Raises DtkError if there is no image, or if most of them are of the other colour kind than the model: a few
    grey images in a colour set (and the other way round) are converted and counted, a whole set is a mistake.
    """
    check_shape(shape)
    keep = len(files.names) * int(np.prod(shape)) <= MEMORY_BYTES
    checked = _check_all(files, shape, fit, keep, progress)
    good = [index for index, one in enumerate(checked) if one.reason is None]
    skipped = tuple(f"{files.names[i]}: {one.reason}" for i, one in enumerate(checked) if one.reason is not None)
    if not good:
        raise _no_images(files, skipped)
    _check_colours(files, [checked[index].recoloured for index in good], shape[0])

    def reader(number: int) -> np.ndarray:
        prepared = checked[good[number]].prepared or decode(files.read(good[number]), shape, fit)
        return prepared.pixels

    digest = hashlib.sha256(b"".join(checked[index].digest for index in good)).hexdigest()
    preparation = _preparation([checked[index] for index in good], shape, fit)
    conditions = files.conditions.select(good)
    return Images(files.source, shape, digest, tuple(range(len(good))), reader, skipped, preparation, conditions)


def _check_all(
    files: StoredFiles, shape: tuple[int, int, int], fit: Fit, keep: bool, progress: Progress
) -> list[_Checked]:
    def check(index: int) -> _Checked:
        try:
            content = files.read(index)
            prepared = decode(content, shape, fit)
        except UnreadableImageError as error:
            return _Checked(b"", str(error), None)
        except Exception as error:  # a zip member with a wrong checksum, a file that may not be read
            return _Checked(b"", f"unreadable: {error}", None)
        digest = hashlib.sha256(content).digest()
        return _Checked(digest, None, prepared if keep else None, prepared.recoloured, prepared.enlarged)

    checked = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders release the interpreter lock
        for start in range(0, len(files.names), AT_ONCE):
            for one in pool.map(check, range(start, min(start + AT_ONCE, len(files.names)))):
                checked.append(one)
                progress("reading images", len(checked), len(files.names))
    return checked


def _no_images(files: StoredFiles, skipped: tuple[str, ...]) -> DtkError:
    few = "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
    return DtkError(
        f"No images in {files.source}.",
        found=f"{len(skipped)} files, none of them a readable image: {few}" if skipped else "no files",
        expected="image files that Pillow reads (PNG, JPEG, WebP, ...)",
    )


def _check_colours(files: StoredFiles, recoloured: list[bool], channels: int) -> None:
    if sum(recoloured) * 2 > len(recoloured):
        raise DtkError(
            f"The images of {files.source} do not have the model's number of channels.",
            found=f"{sum(recoloured)} of {len(recoloured)} images are {KINDS[4 - channels]}",
            expected=f"{KINDS[channels]}, which is what the model makes",
            do="choose the images the model was trained on, or convert these yourself",
        )


def _preparation(images: list[_Checked], shape: tuple[int, int, int], fit: Fit) -> str:
    text = fit.words(*shape[1:])
    enlarged, recoloured = sum(one.enlarged for one in images), sum(one.recoloured for one in images)
    text += f"; {enlarged} enlarged" if enlarged else ""
    return text + (f"; {recoloured} converted to {KINDS[shape[0]]}" if recoloured else "")
