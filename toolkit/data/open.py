"""Whatever the user calls data, opened as Images."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import generator
from toolkit.core.progress import Progress, silent
from toolkit.data.arrays import EMBEDDED, embedded_images, npz_images
from toolkit.data.decoded import images_of_files
from toolkit.data.hub import hub_files
from toolkit.data.images import Images
from toolkit.data.prepare import COVER, Fit
from toolkit.data.stored import folder_files, zip_files

EMBEDDED_TRAIN = 5000
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
    ``stream`` reads that many first rows without downloading the rest. ``fit`` says how images come to the model's
    size; flips belong to training. Files that are no readable images are named in ``skipped``. Raises DtkError if
    nothing usable is there, or if something else than a data set of the hub is to be streamed.
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


def split(images: Images, holdout: float, seed: int) -> tuple[Images, Images]:
    """Split into (train, reference), ``holdout`` being the reference's share; both keep a random order.

    The order is random because sources are often sorted by class, and a part of either half should be a fair one. The
    embedded images split by number instead, whatever the settings say: 0-4,999 train, 5,000-9,999 reference.
    Raises UsageError for a share outside (0, 1), DtkError if a side would be empty.
    """
    if not 0 < holdout < 1:
        raise UsageError(f"Cannot hold out {holdout} of the images.", expected="a share between 0 and 1, such as 0.1")
    if images.source == EMBEDDED:
        train = [index for index, number in enumerate(images.numbers) if number < EMBEDDED_TRAIN]
        reference = [index for index, number in enumerate(images.numbers) if number >= EMBEDDED_TRAIN]
    else:
        order = [int(index) for index in generator("split", seed).permutation(len(images))]
        kept = len(images) - round(holdout * len(images))
        train, reference = order[:kept], order[kept:]
    if not train or not reference:
        raise DtkError(
            f"{images.source} is too small to be split.",
            found=f"{len(images)} images, {holdout} of them to be held out",
            expected="at least one image to train on and one to judge by",
        )
    return images.subset(train), images.subset(reference)
