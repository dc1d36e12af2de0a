"""Parity: an exported denoiser computes what torch computes, prediction by prediction and over the sampling loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError

# Largest |difference| over largest |reference| of one item. fp32: the order of summation; fp16 and bf16: 10 and 7
# mantissa bits through some fifty layers; tf32: products of 10 bits, summed in float32.
TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 1e-1}
# Peak signal-to-noise ratio in dB of the sampled images; 8-bit rounding by itself is 59 dB.
PSNR_FLOORS_DB = {"fp32": 60.0, "tf32": 40.0, "fp16": 40.0, "bf16": 25.0}
IMAGE_RANGE = 2.0  # images lie in [-1, 1]

Predict = Callable[..., torch.Tensor]


class ParityError(DtkError):
    """What was exported computes something else than torch."""


@dataclass(frozen=True)
class Deviation:
    """How far one item of one batch is from the reference: ``relative_error`` = max |difference| / max |reference|."""

    timestep: int
    batch: int
    relative_error: float


def parity_timesteps(timesteps: int) -> list[int]:
    """The timesteps that are compared: both ends and the quarters of 0 .. T-1."""
    return sorted({0, 1, timesteps // 4, timesteps // 2, 3 * timesteps // 4, timesteps - 1} & set(range(timesteps)))


def compare(
    reference: Predict,
    candidate: Predict,
    specs: Mapping[str, InputSpec],
    *,
    batches: Sequence[int],
    tolerance: float,
    name: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two denoisers at every parity timestep in every batch size; each batch mixes the timesteps.

    Returns the worst deviation, the one at each timestep and batch size, and the tolerance. Raises ParityError,
    naming the worst timestep and batch, if one is out of tolerance or not finite.
    """
    timesteps = parity_timesteps(specs["timestep"].upper)
    deviations = [d for batch in batches for d in _deviations(reference, candidate, specs, timesteps, batch, seed)]
    worst = max(deviations, key=lambda deviation: deviation.relative_error)
    if not worst.relative_error <= tolerance:
        raise ParityError(
            f"{name} does not compute what torch computes.",
            found=f"relative error {worst.relative_error:.3g} at timestep {worst.timestep}, batch {worst.batch}",
            expected=f"at most {tolerance:g} of the largest value",
        )
    return {
        "tolerance": tolerance,
        "worst": asdict(worst),
        "by_timestep": {str(t): max(d.relative_error for d in deviations if d.timestep == t) for t in timesteps},
        "by_batch": {str(b): max(d.relative_error for d in deviations if d.batch == b) for b in batches},
    }


def _deviations(
    reference: Predict,
    candidate: Predict,
    specs: Mapping[str, InputSpec],
    timesteps: Sequence[int],
    batch: int,
    seed: int,
) -> list[Deviation]:
    """As many batches as it takes for every timestep to occur."""
    deviations = []
    for start in range(0, len(timesteps), batch):
        inputs = example_inputs(specs, batch, seed=seed + start)
        inputs["timestep"] = torch.tensor([timesteps[(start + i) % len(timesteps)] for i in range(batch)])
        expected, actual = reference(**inputs), candidate(**inputs)
        errors = relative_errors(expected, actual).tolist()
        deviations += [Deviation(int(t), batch, e) for t, e in zip(inputs["timestep"].tolist(), errors, strict=True)]
    return deviations


def relative_errors(expected: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Largest |actual - expected| over largest |expected| of each item; infinite if ``actual`` is not finite."""
    expected, actual = expected.double().flatten(1).cpu(), actual.double().flatten(1).cpu()
    errors = (actual - expected).abs().amax(1) / expected.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(actual.isfinite().all(1), errors, math.inf)


def compare_images(expected: torch.Tensor, actual: torch.Tensor, *, floor_db: float, name: str) -> dict[str, Any]:
    """Compare images (N, C, H, W) in [-1, 1] sampled from the same noise; values outside are clipped, as when saved.

    Returns the PSNR of each image in dB (None if they are equal), the least of them and the floor. Raises
    ParityError below the floor.
    """
    images_db = psnr_db(expected.clamp(-1, 1), actual.clamp(-1, 1)).tolist()
    least = min(images_db)
    if not least >= floor_db:
        raise ParityError(
            f"{name} samples other images than torch from the same noise.",
            found=f"PSNR {least:.1f} dB in image {images_db.index(least)}",
            expected=f"at least {floor_db:g} dB",
        )
    finite = [None if value == math.inf else value for value in images_db]
    return {"floor_db": floor_db, "least_psnr_db": None if least == math.inf else least, "psnr_db": finite}


def psnr_db(expected: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in [-1, 1], in dB; infinite if equal, -infinite next to a NaN."""
    squared = (expected.double() - actual.double()).square().flatten(1).mean(1).cpu()
    return (10 * torch.log10(IMAGE_RANGE**2 / squared)).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
