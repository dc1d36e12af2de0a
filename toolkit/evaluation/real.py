"""The real images samples are judged by, their features, and the floor no model is asked to go below."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit.data.images import Images
from toolkit.evaluation.features import Extractor
from toolkit.files import replacing, value_sha256
from toolkit.progress import Progress, silent


def floor_images(reference: Images, train: Images | None, count: int) -> tuple[Images | None, str]:
    """``count`` further real images to compare with the first ``count`` of the reference, and what they are.

    A distance grows as its count falls, so the floor needs as many images a side as the figures it stands beside. They
    are the next ones of the reference; where it is too small, the training images, which are real and no others.
    """
    if len(reference) >= 2 * count:
        return reference.subset(range(count, 2 * count)), "another part of the reference"
    if train is not None and len(train) >= count:
        return train.subset(range(count)), "the training images, as the reference is too small for two parts"
    return None, f"no floor: it takes {2 * count} reference images and there are {len(reference)}"


def features_of(
    images: Images,
    extractor: Extractor,
    cache: Path,
    progress: Progress = silent,
    work: str = "features of real images",
) -> np.ndarray:
    """Features float32 (N, D) of all ``images``, computed once and kept in ``cache``."""
    key = value_sha256([extractor.name, extractor.sha256, images.fingerprint])
    path = cache / "features" / f"{key[:16]}.npy"
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):  # absent or damaged
        features = extractor(images.read_uint8(range(len(images))), progress, work)
    with replacing(path) as temporary:
        np.save(temporary, features, allow_pickle=False)
    return features
