"""How much faster does dtk take Diff-Pruning's gradients than a plain loop, at the same timesteps?

    python -m benchmarks.scoring_speed [MODEL] [--data DATA] --output benchmarks/results/scoring-speed.json

The plain loop is the paper's: one timestep after the other, forward, summed squared error, backward, the gradients
added up in the parameters. Both visit the same evenly spread timesteps with the same images and noise, interleaved; the
figure is the median of the paired ratios of their times with an interval, above 1 where dtk is faster. In fp32 both do
the same arithmetic, so that 1 is what to expect; their gradients' distance stands next to it. How many timesteps are
enough is another question: ``python -m benchmarks.scoring``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from profiles.latency import clock_of, interleave
from profiles.settings import Rounds
from profiles.speedup import speedup
from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.data.open import open_images
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.models.autoencoder import image_shape
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pruning import calibration
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.gradients import Effort, accumulate
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.timesteps import visits

Gradients = dict[str, torch.Tensor]
EFFORTS: dict[str, dict[str, bool]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "fp32, checkpointing": {"checkpointing": True},
}


def plain(model: nn.Module, images: Calibration, count: int) -> Gradients:
    """The gradients of the paper's loop, summed in ``.grad``; each timestep stands for its stratum."""
    model.zero_grad(set_to_none=True)
    for visit in visits([timesteps_and_kind(images.scheduler)[0]], count):
        timesteps = torch.full((len(images.images),), visit.t, device=images.images.device)
        noisy = images.scheduler.add_noise(images.images, images.noise, timesteps)
        error = model(noisy, timesteps, return_dict=False)[0] - images.noise
        (visit.weight * error.square().sum() / len(images.images)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def ours(model: nn.Module, images: Calibration, count: int, **effort: bool) -> Gradients:
    """The gradients as dtk takes them; the threshold 0 never stops."""
    (found,) = [
        {name: reached.gradient(name) for name, _ in model.named_parameters()}
        for reached in accumulate(model, images, (0.0,), Effort(timesteps=count, **effort))
    ]
    return found


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm of the first."""
    squares = [((one[n] - other[n]).double().square().sum(), one[n].double().square().sum()) for n in one]
    return float((sum(d for d, _ in squares) / sum(s for _, s in squares)) ** 0.5)


def measure(model: nn.Module, images: Calibration, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Both loops interleaved, for each way to save."""
    rounds = Rounds(seconds=options.seconds, least=options.rounds, most=max(200, options.rounds))
    reference, found = plain(model, images, options.timesteps), {}
    for name, effort in EFFORTS.items():
        loops = (
            lambda: plain(model, images, options.timesteps),
            lambda effort=effort: ours(model, images, options.timesteps, **effort),
        )
        times = interleave(loops, clock_of(device), rounds, 1)
        apart = distance(reference, ours(model, images, options.timesteps, **effort))
        faster = {"rounds": len(times[0]), "times_as_fast": asdict(speedup(*times))}
        found[name] = faster | {"distance_of_gradients": apart}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="an unconditional diffusers folder on pixels that predicts noise")
    parser.add_argument("--data", help="images of the model's kind")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--timesteps", type=int, default=8, help="timesteps a turn")
    parser.add_argument("--seconds", type=float, default=60, help="measure each for about this long")
    parser.add_argument("--rounds", type=int, default=11, help="but take that many turns at least")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = find_model(options.model)
    data, scheduler = open_images(options.data, image_shape(folder)), load_scheduler(folder)
    settings = PruneSettings(calibration_images=options.images)
    images = calibration.draw(data, settings, scheduler, open_conditioner(folder, device), device).scored
    facts = {
        "machine": machine(device),
        "versions": versions(),
        "model": options.model or "the embedded default",
        "threads": torch.get_num_threads(),
        "images": options.images,
        "timesteps": options.timesteps,
    }
    found = measure(load_denoiser(folder).to(device), images, options, device)
    write_json(options.output, facts | {"dtk": found})
    print(options.output.read_text())


if __name__ == "__main__":
    main()
