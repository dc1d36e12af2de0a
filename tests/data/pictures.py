"""Folders and archives of random images."""

from __future__ import annotations

import zipfile

import numpy as np
from PIL import Image

SHAPE = (3, 8, 8)


def picture(number, mode="RGB", size=(8, 8)):
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode=None)


def fill(folder, count=4, mode="RGB", size=(8, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number, mode, size).save(folder / f"{number:03}.png")
    return folder


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def pixels(images):
    return images.read_uint8(range(len(images)))
