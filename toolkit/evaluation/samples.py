"""Samples of a model, kept in shards: an interrupted evaluation continues, and several processes make some each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from toolkit.core.files import replacing
from toolkit.core.progress import Progress, silent
from toolkit.diffusion.few_steps import own_guidance, own_steps, taught_steps
from toolkit.evaluation.artefact import Artefact, SamplingSettings
from toolkit.evaluation.image_maker import ImageMaker
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler

SHARD = 256  # images; a killed process loses at most one shard


def sample_images(
    model: ModelFolder,
    plan: SamplingSettings,
    count: int,
    cache: Path,
    *,
    artefact: Artefact | None = None,
    conditions: SampleConditions | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    work: str = "sampling",
) -> np.ndarray:
    """``count`` images of the model, uint8 (N, H, W, C); finished shards are taken from ``cache`` and kept there.

    ``artefact`` makes them in torch's place. ``conditions`` are the samples' classes or captions; without them classes
    are drawn from the samples' seeds.
    Raises DtkError if the model makes values that are not finite.
    """
    shards = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
    shards_made = _shards(model, plan, shards, cache, artefact, conditions, device, progress, work)
    return np.concatenate([shards_made[shard.start] for shard in shards])


def sample_share(
    model: ModelFolder,
    plan: SamplingSettings,
    count: int,
    cache: Path,
    share: tuple[int, int],
    *,
    conditions: SampleConditions | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    work: str = "sampling",
) -> None:
    """Put a process's share of ``sample_images`` into ``cache``: ``share`` (i, n) is every n-th shard from i on."""
    index, processes = share
    starts = range(index * SHARD, count, processes * SHARD)
    shards = [range(start, min(start + SHARD, count)) for start in starts]
    _shards(model, plan, shards, cache, None, conditions, device, progress, work)


def own_plan(model: ModelFolder, plan: SamplingSettings) -> SamplingSettings:
    """``plan``, or for a model that was taught other steps than the plan's the same with its own, in DDIM.

    One that learned guidance is sampled without.
    """
    scheduler = load_scheduler(model)
    if not taught_steps(scheduler):
        return plan
    steps = plan.steps if plan.steps in taught_steps(scheduler) else own_steps(scheduler, plan.steps)
    return replace(plan, sampler="ddim", steps=steps, guidance=own_guidance(scheduler, plan.guidance))


def _shards(
    model: ModelFolder,
    plan: SamplingSettings,
    shards: list[range],
    cache: Path,
    artefact: Artefact | None,
    conditions: SampleConditions | None,
    device: str,
    progress: Progress,
    work: str,
) -> dict[int, np.ndarray]:
    """The images of these ranges of numbers by their first one: stored ones, and the others made and stored."""
    plan = own_plan(model, plan)
    conditions = conditions or SampleConditions(find_conditioning(model), plan.seed)
    folder = cache / "samples" / plan.key(model, conditions, device, artefact)[:16]
    stored = {shard.start: _stored(folder / f"{shard.start:06}.npy", len(shard)) for shard in shards}
    loaded = {start: images for start, images in stored.items() if images is not None}
    done, total = sum(map(len, loaded.values())), sum(map(len, shards))
    progress(work, done, total)
    maker = ImageMaker(model, plan, conditions, device, artefact) if done < total else None
    for shard in shards:
        if shard.start not in loaded and maker is not None:
            loaded[shard.start] = _shard(maker, shard, progress, (work, done, total))
            _store(folder / f"{shard.start:06}.npy", loaded[shard.start])
            done += len(shard)
    if maker is not None:
        maker.close()
    return loaded


def _shard(maker: ImageMaker, numbers: range, progress: Progress, status: tuple[str, int, int]) -> np.ndarray:
    work, done, total = status
    batches = []
    for start in range(0, len(numbers), maker.plan.batch_size):
        batches.append(maker(numbers[start : start + maker.plan.batch_size]))
        progress(work, done + start + len(batches[-1]), total)
    return np.concatenate(batches)


def _stored(path: Path, count: int) -> np.ndarray | None:
    """The first ``count`` images of a shard, None if it is absent, damaged or shorter."""
    try:
        images = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    return images[:count] if len(images) >= count else None


def _store(path: Path, images: np.ndarray) -> None:
    with replacing(path) as temporary:
        np.save(temporary, images, allow_pickle=False)
