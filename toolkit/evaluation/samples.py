"""Samples of a model, kept in shards so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit.conditioner import find_conditioning
from toolkit.evaluation.conditions import SampleConditions
from toolkit.evaluation.making import ImageMaker, SamplingPlan
from toolkit.files import replacing
from toolkit.models import ModelFolder
from toolkit.progress import Progress, silent

SHARD = 256  # images; a killed process loses at most one shard


def sample_images(
    model: ModelFolder,
    plan: SamplingPlan,
    count: int,
    cache: Path,
    *,
    conditions: SampleConditions | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    work: str = "sampling",
) -> np.ndarray:
    """``count`` images of the model, uint8 (N, H, W, C); finished shards are taken from ``cache`` and kept there.

    ``conditions`` are the samples' classes or captions; without them classes are drawn from the samples' seeds.
    Raises DtkError where the model makes values that are not finite.
    """
    conditions = conditions or SampleConditions(find_conditioning(model), plan.seed)
    folder = cache / "samples" / plan.key(model, conditions, device)[:16]
    starts = range(0, count, SHARD)
    stored = {start: _stored(folder / f"{start:06}.npy", min(SHARD, count - start)) for start in starts}
    shards = {start: shard for start, shard in stored.items() if shard is not None}
    done = sum(map(len, shards.values()))
    progress(work, done, count)
    maker = ImageMaker(model, plan, conditions, device) if done < count else None
    for start in starts:
        if start not in shards and maker is not None:
            numbers = range(start, min(start + SHARD, count))
            shards[start] = _shard(maker, numbers, progress, (work, done, count))
            _store(folder / f"{start:06}.npy", shards[start])
            done += len(numbers)
    if maker is not None:
        maker.close()
    return np.concatenate([shards[start] for start in starts])


def _shard(maker: ImageMaker, numbers: range, progress: Progress, told: tuple[str, int, int]) -> np.ndarray:
    work, done, total = told
    batches = []
    for start in range(0, len(numbers), maker.plan.batch_size):
        batches.append(maker(numbers[start : start + maker.plan.batch_size]))
        progress(work, done + start + len(batches[-1]), total)
    return np.concatenate(batches)


def _stored(path: Path, count: int) -> np.ndarray | None:
    """The first ``count`` images of a shard, None where it is absent, damaged or shorter."""
    try:
        images = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    return images[:count] if len(images) >= count else None


def _store(path: Path, images: np.ndarray) -> None:
    with replacing(path) as temporary:
        np.save(temporary, images, allow_pickle=False)
