"""Samples of a model, kept in shards so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.denoiser_inputs import InputSpec, input_specs
from toolkit.errors import DtkError
from toolkit.files import replacing, value_sha256
from toolkit.models import ModelFolder, load_scheduler
from toolkit.noise import generator
from toolkit.progress import Progress, silent
from toolkit.runners.base import Runner
from toolkit.runners.registry import open_runner
from toolkit.sampling import sample

if TYPE_CHECKING:
    import torch

SHARD = 256  # images; a killed process loses at most one shard


@dataclass(frozen=True)
class SamplingPlan:
    """How images are made; image i comes from seed + i, so neither count nor batch size changes it."""

    sampler: str
    steps: int
    seed: int
    batch_size: int = 64

    def key(self, model: ModelFolder, device: str) -> str:
        """Names the samples: equal keys, equal images."""
        return value_sha256([model.sha256, self.sampler, self.steps, self.seed, device.split(":")[0]])


def sample_images(
    model: ModelFolder,
    plan: SamplingPlan,
    count: int,
    cache: Path,
    *,
    device: str = "cpu",
    progress: Progress = silent,
    work: str = "sampling",
) -> np.ndarray:
    """``count`` images of the model, uint8 (N, H, W, C); finished shards are taken from ``cache`` and kept there.

    Raises DtkError where the model makes values that are not finite.
    """
    folder = cache / "samples" / plan.key(model, device)[:16]
    starts = range(0, count, SHARD)
    stored = {start: _stored(folder / f"{start:06}.npy", min(SHARD, count - start)) for start in starts}
    shards = {start: shard for start, shard in stored.items() if shard is not None}
    done = sum(map(len, shards.values()))
    progress(work, done, count)
    runner = open_runner("torch", model, device=device) if done < count else None
    for start in starts:
        if start not in shards and runner is not None:
            numbers = range(start, min(start + SHARD, count))
            shards[start] = _shard(runner, model, plan, numbers, progress, (work, done, count))
            _store(folder / f"{start:06}.npy", shards[start])
            done += len(numbers)
    if runner is not None:
        runner.close()
    return np.concatenate([shards[start] for start in starts])


def _shard(
    runner: Runner,
    model: ModelFolder,
    plan: SamplingPlan,
    numbers: range,
    progress: Progress,
    told: tuple[str, int, int],
) -> np.ndarray:
    work, done, total = told
    scheduler = load_scheduler(model)
    specs = input_specs(model.class_name, model.config, timesteps=scheduler.config.num_train_timesteps)
    batches = []
    for start in range(0, len(numbers), plan.batch_size):
        seeds = [plan.seed + number for number in numbers[start : start + plan.batch_size]]
        images = sample(
            runner,
            scheduler,
            seeds,
            specs["sample"].shape,
            plan.steps,
            plan.sampler,
            device=runner.device,
            conditioning=conditioning(specs, seeds, runner.device),
        )
        batches.append(to_pixels(images, model, seeds))
        progress(work, done + start + len(seeds), total)
    return np.concatenate(batches)


def conditioning(specs: dict[str, InputSpec], seeds: Sequence[int], device: str = "cpu") -> dict[str, torch.Tensor]:
    """What conditions each image: a class drawn from the image's seed; DtkError for what cannot be drawn."""
    import torch

    wanted = {name: spec for name, spec in specs.items() if name not in ("sample", "timestep")}
    if set(wanted) - {"class_labels"}:
        raise DtkError(
            "This model cannot be sampled without more to go by.",
            found=f"it takes {', '.join(sorted(wanted))}",
            expected="a model that takes nothing, or class labels",
        )
    labels = {
        name: [int(generator("sample class", seed).integers(spec.upper)) for seed in seeds]
        for name, spec in wanted.items()
    }
    return {name: torch.tensor(values, dtype=torch.int64, device=device) for name, values in labels.items()}


def to_pixels(images: torch.Tensor, model: ModelFolder, seeds: Sequence[int]) -> np.ndarray:
    """Images float32 (B, C, H, W) in [-1, 1] as uint8 (B, H, W, C), rounded as a saved picture is."""
    broken = [seed for seed, image in zip(seeds, images, strict=True) if not image.isfinite().all()]
    if broken:
        raise DtkError(
            f"The model {model.root} makes images that are not finite.",
            found=f"{len(broken)} of {len(seeds)} images, the first from seed {broken[0]}",
            do="recover it for longer, or with a smaller learning rate",
        )
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


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
