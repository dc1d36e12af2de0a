"""Does a LoRA of the dense model still do what it did, once it is carried to the compressed model? A toy.

    dtk run benchmarks/recipes/default.yaml -o runs/default
    python -m benchmarks.carry runs/default --output benchmarks/results/carry.json

On the run's dense model a LoRA (rank 4, of attention and the residual blocks' convolutions) learns negated examples,
which the model has never seen; `dtk carry` slices it for the compressed one. Stated is the mean squared error to the
noise on held-out negated examples: without the LoRA, with it, with it sliced by the indices of other channels (each
list of kept channels moved by one place), and with one that is trained as long on the compressed model itself.
`cosine` is that of the angle between what the LoRA changes in the predictions of the dense and the compressed model.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.core.noise import generator, normal
from toolkit.diffusion.objective import noisy, target, timesteps_and_kind
from toolkit.importing.addons import Pruned
from toolkit.importing.carry import carry
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.job import open_job
from toolkit.pruning.plan import read_plan

RANK, BATCH, RATE, HELD_OUT = 4, 16, 2e-3, 256
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")

Batch = tuple[list[Any], dict[str, torch.Tensor], torch.Tensor]


class Update(nn.Module):
    """W + B A."""

    def __init__(self, name: str, weight: torch.Tensor) -> None:
        super().__init__()
        out, inputs, *kernel = weight.shape
        down = torch.from_numpy(normal(f"carry {name}", 0, shape=(RANK, inputs, *kernel)))
        self.down = nn.Parameter(down / (inputs * np.prod(kernel)) ** 0.5)
        self.up = nn.Parameter(torch.zeros(out, RANK, *[1] * len(kernel)))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up.flatten(1) @ self.down.flatten(1)).view_as(weight)


class Task:
    """Negated examples of a run at random timesteps: numbers below ``HELD_OUT`` are only judged by."""

    def __init__(self, run: Path) -> None:
        self.job = open_job(run)
        self.scheduler, self.conditioner = load_scheduler(self.job.dense), open_conditioner(self.job.dense)
        self.timesteps = timesteps_and_kind(self.scheduler)[0]

    def batch(self, name: str, place: int, indices: list[int]) -> Batch:
        """x_t and t, what conditions them, and what should be predicted."""
        examples = self.job.examples
        clean = -torch.from_numpy(examples.read(indices))
        noise = torch.from_numpy(normal(f"carry noise {name}", 0, place, shape=tuple(clean.shape)))
        t = torch.from_numpy(generator(f"carry t {name}", 0, place).integers(0, self.timesteps, len(indices)))
        kind = self.conditioner.conditioning.kind
        given = {} if kind == "none" else self.conditioner(examples.conditions(kind, indices))
        return [noisy(self.scheduler, clean, noise, t), t], given, target(self.scheduler, clean, noise, t)

    @torch.no_grad()
    def judge(self, network: nn.Module) -> tuple[float, torch.Tensor]:
        """The error on held-out examples, and the predictions."""
        parts = [self.batch("judge", n, list(range(n, n + 64))) for n in range(0, HELD_OUT, 64)]
        predictions = torch.cat([network(*inputs, **given).sample for inputs, given, _ in parts])
        return float((predictions - torch.cat([wanted for *_, wanted in parts])).square().mean()), predictions

    def train(self, network: nn.Module, steps: int) -> dict[str, torch.Tensor]:
        """The tensors of a LoRA for ``network``, which is left as it was."""
        network = copy.deepcopy(network).requires_grad_(False)
        layers = {n: m for n, m in network.named_modules() if n.endswith(TARGETS) and hasattr(m, "weight")}
        updates = {name: Update(name, layer.weight) for name, layer in layers.items()}
        for name, layer in layers.items():
            parametrize.register_parametrization(layer, "weight", updates[name])
        optimizer = torch.optim.AdamW([p for u in updates.values() for p in u.parameters()], lr=RATE, weight_decay=0.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            indices = generator("carry order", 0, step).integers(HELD_OUT, len(self.job.examples), BATCH).tolist()
            inputs, given, wanted = self.batch("train", step, indices)
            (network(*inputs, **given).sample - wanted).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ends = {"lora_A": "down", "lora_B": "up"}
        return {
            f"unet.{name}.{end}.weight": getattr(update, factor).detach().clone()
            for name, update in updates.items()
            for end, factor in ends.items()
        }


def merged(network: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    result = copy.deepcopy(network)
    with torch.no_grad():
        for name, up in tensors.items():
            if name.endswith(".lora_B.weight"):
                down = tensors[name.replace("lora_B", "lora_A")]
                weight = result.get_parameter(name.removeprefix("unet.").replace("lora_B.", ""))
                weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight))
    return result


def measure(run: Path, steps: int) -> dict[str, Any]:
    task = Task(run)
    dense, compressed = load_denoiser(task.job.dense), load_denoiser(task.job.compressed)
    plan = read_plan(run / "prune" / "plan.json")
    folder = run / "carry"
    folder.mkdir(exist_ok=True)
    lora = task.train(dense, steps)
    save_file(lora, folder / "lora.safetensors")
    moved = {n: np.sort((kept + 1) % plan.layout.groups[n].size) for n, kept in plan.kept.items()}
    sliced = {}
    for name, kept in (("carried", plan.kept), ("other channels", moved)):
        pruned = Pruned(task.job.dense, task.job.compressed, replace(plan, kept=kept))
        sliced[name] = load_file(carry(folder / "lora.safetensors", folder / name, pruned)["file"])
    before, with_lora = task.judge(dense), task.judge(merged(dense, lora))
    plain = task.judge(compressed)
    own = task.judge(merged(compressed, task.train(compressed, steps)))
    errors = {"dense": before[0], "dense with the LoRA": with_lora[0], "compressed": plain[0]}
    cosines = {}
    for name, tensors in sliced.items():
        error, predictions = task.judge(merged(compressed, tensors))
        errors[f"compressed, {name}"] = error
        change, wanted = (predictions - plain[1]).flatten(), (with_lora[1] - before[1]).flatten()
        cosines[name] = float(change @ wanted / (change.norm() * wanted.norm()))
    return {"errors": errors | {"compressed, its own LoRA": own[0]}, "cosine": cosines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    facts = {"note": "a toy: one small model, one seed", "steps": options.steps, "batch": BATCH, "rank": RANK}
    found = facts | measure(options.run, options.steps) | {"machine": machine("cpu"), "versions": versions()}
    print(found["errors"], found["cosine"])
    if options.output:
        write_json(options.output, found)


if __name__ == "__main__":
    main()
