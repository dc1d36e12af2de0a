"""Learned masks: which channels may close so that whole samplings end where the dense model's do.

EcoDiff (Zhang et al. 2024, arXiv 2412.02852), with the hard-concrete gates of Louizos et al. (2018, arXiv 1712.01312):
a gate per channel multiplies all that computes the channel, and Adam opens and closes the gates by the distance
between the images of the gated and of the dense model, through all steps of DDIM, which are computed again in the
backward pass. The paper's sparsity term is replaced by one that keeps half of each group open, as the plan will.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from toolkit.core.noise import generator, sample_noise
from toolkit.diffusion.sampling import build_scheduler, denoise
from toolkit.pruning.criteria.base import Task
from toolkit.pruning.layout import FIXED, Layout
from toolkit.pruning.scoring import Scored

STEPS, ITERATIONS, IMAGES, RATE = 20, 120, 8, 0.1
SHARE, WEIGHT = 0.5, 5.0  # of each group's channels that stay open, and how much that counts beside the distance
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1  # temperature and stretch (Louizos et al., section 4)
START = 1.0  # nine gates in ten are open


class Masks:
    """Gates through the whole sampler."""

    name = "masks"
    description = "hard-concrete gates, learned through the whole sampler; images of the dense model's own"
    reads_images = True  # whose scheduler it needs
    fresh_weights = False

    def score(self, task: Task) -> dict[float, Scored]:
        assert task.calibration is not None
        model, shape = task.model.eval().requires_grad_(False), task.calibration.images.shape[1:]
        logits = {name: torch.full((group.size,), START).requires_grad_() for name, group in task.layout.groups.items()}
        optimizer = torch.optim.Adam(logits.values(), lr=RATE)
        distances = []
        for iteration in range(ITERATIONS):
            seeds = range(iteration * IMAGES, (iteration + 1) * IMAGES)
            noise = torch.from_numpy(sample_noise(seeds, 0, tuple(shape)))
            weights = gated(task.layout, dict(model.named_parameters()), drawn(logits, task.seed, iteration))
            with torch.no_grad():
                wanted = images(task, {}, noise)
            distance = (images(task, weights, noise) - wanted).square().mean()
            uneven = torch.stack([(open_share(one) - SHARE).square() for one in logits.values()]).mean()
            optimizer.zero_grad()
            (distance + WEIGHT * uneven).backward()
            optimizer.step()
            distances.append(float(distance.detach()))
            task.progress("learn masks", iteration + 1, ITERATIONS)
        scores = {name: one.detach().sigmoid().double().numpy() for name, one in logits.items()}
        return dict.fromkeys(task.thresholds, Scored(scores, {"distances": distances}))


def images(task: Task, weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """DDIM's images from the noise ``x`` (B, C, H, W), with some of the model's parameters replaced."""
    assert task.calibration is not None
    stepper = build_scheduler(task.calibration.scheduler, "ddim", STEPS)

    def predict(sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = functional_call(task.model, dict(weights), (sample, timestep), conditioning).sample
        return prediction

    called = partial(checkpoint, predict, use_reentrant=False) if weights else predict
    steps = [(int(t), torch.full((len(x),), int(t))) for t in stepper.timesteps]
    return denoise(called, stepper, "ddim", x, steps, {})


def drawn(logits: Mapping[str, torch.Tensor], seed: int, iteration: int) -> dict[str, torch.Tensor]:
    """A gate in [0, 1] for each channel."""
    gates = {}
    for name, one in logits.items():
        uniform = torch.from_numpy(generator(f"gate {name}", seed, iteration).uniform(1e-6, 1 - 1e-6, len(one))).float()
        soft = ((uniform.log() - (1 - uniform).log() + one) / BETA).sigmoid()
        gates[name] = (soft * (HIGH - LOW) + LOW).clamp(0, 1)
    return gates


def open_share(logits: torch.Tensor) -> torch.Tensor:
    """How many gates are open, as an expectation over their draws."""
    return (logits - BETA * math.log(-LOW / HIGH)).sigmoid().mean()


def gated(
    layout: Layout, parameters: Mapping[str, torch.Tensor], gates: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The parameters whose outputs are gated; a channel with a closed gate is zero wherever it is computed."""
    changed = {}
    for tensor, dims in layout.tensors.items():
        if any(segment.group != FIXED for segment in dims.get(0, ())):
            gate = torch.cat([gates.get(segment.group, torch.ones(segment.size)) for segment in dims[0]])
            weight = parameters[tensor]
            changed[tensor] = weight * gate.view(-1, *[1] * (weight.ndim - 1))
    return changed


CRITERION = Masks()
