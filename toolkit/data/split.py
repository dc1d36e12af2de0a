"""What is trained on and what is judged by, kept apart."""

from __future__ import annotations

from toolkit.data.arrays import EMBEDDED
from toolkit.data.images import Images
from toolkit.errors import DtkError, UsageError
from toolkit.noise import generator

EMBEDDED_TRAIN = 5000


def split(images: Images, holdout: float, seed: int) -> tuple[Images, Images]:
    """Split into (train, reference), ``holdout`` being the reference's share; both keep a random order.

    The order is random because sources are often sorted by class, and a part of either half should be a fair one. The
    embedded images split by number instead, whatever is asked: 0-4,999 train, 5,000-9,999 reference.
    Raises UsageError for a share outside (0, 1), DtkError where a side would be empty.
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
