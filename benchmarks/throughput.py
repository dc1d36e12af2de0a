"""How many images per second does recovery train, against a plain diffusers training loop on the same model and
machine?

    python benchmarks/throughput.py [MODEL] [--data DATA] --output benchmarks/results/throughput.json

The plain loop is what diffusers' own unconditional example does: a shuffled DataLoader that normalises image by image,
noise and timesteps from torch's generator, mean squared error, accelerate, clipping, AdamW, a cosine schedule and
EMAModel. Both loops train the same network from the same weights on the same images, without logging or checkpoints,
interleaved of a few steps; the figure is the median of the paired ratios of their times with an interval, above 1 where
dtk is faster. Beside plain training stands distillation, which pays for the teacher's pass as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from profiles.latency import clock_of, interleave
from profiles.settings import Rounds
from profiles.speedup import speedup
from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.data.images import Images
from toolkit.data.open import open_images
from toolkit.models.autoencoder import image_shape
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.recovery.loop import train
from toolkit.recovery.prepare import prepare
from toolkit.recovery.settings import RecoverSettings

MIXES: dict[str, dict[str, float]] = {"noise": {"noise": 1.0}, "distillation": {"distillation": 1.0}}
ENDLESS = 10**9  # steps: the loops are stopped from outside


class Pictures(Dataset[torch.Tensor]):
    """Images one by one, float32 (C, H, W) in [-1, 1], as torchvision's ToTensor and Normalize leave them."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = torch.from_numpy(self.images.read_uint8([index])[0])
        return (pixels.permute(2, 0, 1).contiguous().float() / 255 - 0.5) / 0.5


def plain(folder: ModelFolder, images: Images, settings: RecoverSettings, device: str) -> Iterator[None]:
    """Diffusers' training loop; a step at each item."""
    accelerator = Accelerator(cpu=device == "cpu")
    network = load_denoiser(folder).train()
    scheduler = load_scheduler(folder)
    average = EMAModel(network.parameters(), decay=settings.ema, use_ema_warmup=True)
    average.to(accelerator.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = {"num_warmup_steps": settings.warmup_steps, "num_training_steps": ENDLESS}
    rate = get_scheduler("cosine", optimizer, **warmup)
    loader = DataLoader(Pictures(images), batch_size=settings.batch_size, shuffle=True, drop_last=True)
    network, optimizer, loader, rate = accelerator.prepare(network, optimizer, loader, rate)
    while True:
        for clean in loader:
            noise = torch.randn_like(clean)
            t = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), device=clean.device).long()
            with accelerator.accumulate(network):
                predicted = network(scheduler.add_noise(clean, noise, t), t).sample
                accelerator.backward(functional.mse_loss(predicted.float(), noise.float()))
                accelerator.clip_grad_norm_(network.parameters(), settings.gradient_clip)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            average.step(network.parameters())
            yield


def ours(folder: ModelFolder, images: Images, settings: RecoverSettings, device: str) -> Iterator[Any]:
    """Recovery's loop; a step at each item."""
    return train(*prepare(settings, folder, folder, images, device))


def several(loop: Iterator[Any], steps: int) -> Callable[[], None]:
    """A call that does that many steps of a loop."""

    def call() -> None:
        for _ in range(steps):
            next(loop)

    return call


def measure(folder: ModelFolder, images: Images, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """The ratio of each mix to the plain loop."""
    rounds = Rounds(seconds=options.seconds, least=options.rounds, most=max(200, options.rounds))
    found = {}
    for name, losses in MIXES.items():
        settings = RecoverSettings(steps=ENDLESS, batch_size=options.batch, losses=losses)
        theirs, own = (several(make(folder, images, settings, device), options.steps) for make in (plain, ours))
        times = interleave((theirs, own), clock_of(device), rounds, 1)
        found[name] = {"losses": losses, "rounds": len(times[0]), "times_as_fast": asdict(speedup(*times))}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="an unconditional diffusers folder on pixels that predicts noise")
    parser.add_argument("--data", help="images of the model's kind")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="steps per turn")
    parser.add_argument("--seconds", type=float, default=120, help="measure each mix for about this long")
    parser.add_argument("--rounds", type=int, default=11, help="but take that many turns at least")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = find_model(options.model)
    images = open_images(options.data, image_shape(folder))
    facts = {
        "machine": machine(device),
        "versions": versions(),
        "model": options.model or "the embedded default",
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "steps_a_turn": options.steps,
    }
    write_json(options.output, facts | {"mixes": measure(folder, images, options, device)})
    print(options.output.read_text())


if __name__ == "__main__":
    main()
