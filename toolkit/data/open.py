"""Whatever the user calls data, opened as Images."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.data.arrays import embedded_images, npz_images
from toolkit.data.decoded import images_of_files
from toolkit.data.hub import hub_files
from toolkit.data.images import Images
from toolkit.data.prepare import COVER, Fit
from toolkit.data.stored import folder_files, zip_files
from toolkit.errors import DtkError
from toolkit.progress import Progress, silent

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.\-\[\]%:+]+)?")


def open_images(
    source: str | Path | None,
    shape: tuple[int, int, int],
    progress: Progress = silent,
    *,
    fit: Fit = COVER,
    stream: int | None = None,
) -> Images:
    """Open ``source`` for a model of ``shape`` (C, H, W): None is the embedded default.

    Otherwise a folder or zip of images, an .npz, or a data set of the hub (``name`` or ``name:split``), of which
    ``stream`` reads so many first rows without downloading the rest. ``fit`` says how images come to the model's size;
    flips belong to training. Files that are no readable images are named in ``skipped``. Raises DtkError where nothing
    usable is there, or where something else than a data set of the hub is to be streamed.
    """
    if source is None:
        return embedded_images(shape)
    path = Path(source)
    if stream is not None and path.exists():
        raise DtkError(f"{path} is not streamed: it is here already.", do="leave out data.stream")
    if path.is_dir():
        return images_of_files(folder_files(path), shape, progress, fit)
    if path.suffix.lower() == ".npz" and path.is_file():
        return npz_images(path, shape, fit)
    if path.suffix.lower() == ".zip" and path.is_file():
        return images_of_files(zip_files(path), shape, progress, fit)
    if path.exists():
        raise DtkError(f"{path} is not a set of images.", expected="a folder or zip of images, or an .npz")
    if HUB_NAME.fullmatch(str(source)) and path.suffix.lower() not in (".npz", ".zip"):
        return images_of_files(hub_files(str(source), stream, progress), shape, progress, fit)
    raise DtkError(
        f"No such data: {source}.",
        expected="a folder or zip of images, an .npz, or a data set of the hub (name or name:split)",
    )
