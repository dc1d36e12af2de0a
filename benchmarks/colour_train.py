"""Train the model of benchmarks/colour_model.py on a GPU: ``python benchmarks/colour_train.py MODEL IMAGES OUT``.

Plain training towards the noise (Ho, Jain and Abbeel 2020), images weighted by Min-SNR (Hang et al. 2023, gamma 5),
for so many minutes along a cosine. On a GPU a training step is one CUDA graph, random numbers and the averaged weights
included: started from Python, a step of so small a network waits for its launches (44 ms for 256 images on an H100).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline

from toolkit.core.environment import machine, resolve_device, versions
from toolkit.core.files import write_json
from toolkit.diffusion.objective import min_snr_weights, noisy

RATE, WARMUP_STEPS, DECAY = 1e-3, 500, 0.999
OFTEN = 50  # steps between looks at the clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the untrained model's folder")
    parser.add_argument("images", type=Path, help=".npz with images (N, H, W, 3), uint8")
    parser.add_argument("out", type=Path, help="the trained model's folder; training.json tells what was done")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    device = torch.device(resolve_device("auto"))
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    pipeline = DDPMPipeline.from_pretrained(options.model)
    network = pipeline.unet.train().to(device)
    pixels = torch.from_numpy(np.load(options.images)["images"]).permute(0, 3, 1, 2).contiguous().to(device)
    average = [weight.detach().clone() for weight in network.parameters()]
    log = train(network, pipeline.scheduler, pixels, average, options.batch_size, 60 * options.minutes)
    for weight, averaged in zip(network.parameters(), average, strict=True):
        weight.data.copy_(averaged)
    pipeline.save_pretrained(options.out)
    told = {"minutes": options.minutes, "batch_size": options.batch_size, "log": log}
    write_json(options.out / "training.json", told | {"machine": machine(str(device)), "versions": versions()})


def train(
    network: Any, scheduler: Any, images: torch.Tensor, average: list[torch.Tensor], batch: int, seconds: float
) -> list[dict[str, float]]:
    """Train for so long and keep the ``average`` of the weights; returns step, loss and learning rate now and then."""
    rate = torch.zeros((), device=images.device)
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=images.is_cuda, capturable=images.is_cuda)
    loss, step = _step(network, scheduler, images, optimizer, average, batch)
    step = _graph(step, optimizer) if images.is_cuda else step
    log, number, started = [], 0, time.monotonic()
    while (passed := (time.monotonic() - started) / seconds) < 1:
        rate.fill_(RATE * min(1.0, (number + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * passed)))
        for _ in range(OFTEN):
            step()
        number += OFTEN
        log.append({"step": number, "loss": float(loss), "learning_rate": float(rate)})
        if number % (20 * OFTEN) == 0:
            print(json.dumps(log[-1]), flush=True)
    return [*log[:: len(log) // 20 + 1], log[-1]]


def _step(
    network: Any, scheduler: Any, images: torch.Tensor, optimizer: Any, average: list[torch.Tensor], batch: int
) -> tuple[torch.Tensor, Callable[[], None]]:
    """A training step on ``batch`` random images (N, C, H, W), half of them mirrored, and where its loss is left."""
    device, weights = images.device, list(network.parameters())
    values = [weight.detach() for weight in weights]
    shares = min_snr_weights(scheduler, torch.arange(scheduler.config.num_train_timesteps), 5.0).to(device)
    last = torch.zeros((), device=device)

    def step() -> None:
        drawn = images[torch.randint(len(images), (batch,), device=device)].float() / 127.5 - 1
        clean = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, drawn.flip(3), drawn)
        noise, t = torch.randn_like(clean), torch.randint(len(shares), (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=images.is_cuda, cache_enabled=False):
            predicted = network(noisy(scheduler, clean, noise, t), t).sample
        loss = (shares[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(average, values, 1 - DECAY)
        last.copy_(loss.detach())

    return last, step


def _graph(step: Callable[[], None], optimizer: Any) -> Callable[[], None]:
    """``step`` as one CUDA graph, after three steps that leave the weights as they are: the learning rate is 0."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


if __name__ == "__main__":
    main()
