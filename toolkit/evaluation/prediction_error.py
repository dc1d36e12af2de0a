"""The error of the prediction at every noise level: where along the trajectory a compressed model differs."""

from __future__ import annotations

from typing import Any

import torch

from toolkit.core.noise import normals
from toolkit.core.progress import Progress, silent
from toolkit.data.images import Images
from toolkit.diffusion.objective import ends_and_between, noisy, target, timesteps_and_kind
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.models.autoencoder import open_autoencoder
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.runners.base import Runner, open_runner

POINTS = 20
IMAGES = 64
CURVES = ("dense", "compressed", "compressed_against_dense")


def prediction_errors(
    dense: ModelFolder,
    compressed: ModelFolder,
    images: Images,
    seed: int,
    *,
    device: str = "cpu",
    points: int = POINTS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Mean squared errors at ``points`` timesteps spread over 0..T-1, on the first images (at most 64).

    ``dense`` and ``compressed`` are errors against the training target, ``compressed_against_dense`` the gap between
    the two predictions; all are means over pixels, or over latents, in the units of the prediction type. Both models
    see the same noise and conditions.
    """
    scheduler = load_scheduler(dense)
    total, kind = timesteps_and_kind(scheduler)
    timesteps = ends_and_between(total, points)
    numbers = range(min(IMAGES, len(images)))
    clean = torch.from_numpy(images.read(numbers)).to(device)
    if autoencoder := open_autoencoder(dense, device):
        clean = autoencoder.encode(clean)
    conditioner = open_conditioner(dense, device)
    conditions = conditioner(SampleConditions(conditioner.conditioning, seed, images)(numbers))
    runners = [open_runner("torch", model, device=device) for model in (dense, compressed)]
    rows = []
    for done, t in enumerate(timesteps, start=1):
        rows.append(_errors_at(t, runners, scheduler, clean, conditions, seed))
        progress("prediction errors", done, len(timesteps))
    for runner in runners:
        runner.close()
    curves = {name: [row[column] for row in rows] for column, name in enumerate(CURVES)}
    return {"images": len(numbers), "prediction_type": kind, "timesteps": timesteps, **curves}


def _errors_at(
    t: int, runners: list[Runner], scheduler: Any, clean: torch.Tensor, conditions: dict[str, torch.Tensor], seed: int
) -> list[float]:
    shape = tuple(clean.shape[1:])
    drawn = normals("prediction error", [(seed, number, t) for number in range(len(clean))], shape)
    noise = torch.from_numpy(drawn).to(clean)
    timestep = torch.full((len(clean),), t, dtype=torch.int64, device=clean.device)
    x = noisy(scheduler, clean, noise, timestep)
    dense, compressed = (runner(x, timestep, **conditions)[:, : shape[0]] for runner in runners)
    wanted = target(scheduler, clean, noise, timestep)
    return [float(gap.double().square().mean()) for gap in (dense - wanted, compressed - wanted, compressed - dense)]
