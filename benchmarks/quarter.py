"""At 0.25 of the MACs, taught to sample in 4 steps: does another criterion or another training lose less?

    python -m benchmarks.quarter RUNS [--arms default jacobian] [--seeds 0 1 2] [--training short]

Every arm prunes the embedded default to at most 0.30 of its MACs (0.252), recovers it in 400 steps of 64 and teaches it
for 600 on 4,096 trajectories of the dense model (long: 300, 3,410, 18,432), and differs from the first in what its name
says. Judged by the Frechet distance of 5,000 samples in 4 steps. ``svs`` is singular value scaling (Kim and Yoo 2024,
arXiv 2412.17387), ``masks`` are those of benchmarks/criteria/masks.py. ``rates``: 4e-3 instead of 2e-3 in recovery,
2e-3 instead of 1e-3 in teaching. The share of the dense model's training counts passes of the networks as decision 10
does, not what the Jacobian or the masks cost beside. Results: benchmarks/results/quarter.json; a row that is in it is
not measured again. Rows of ``short-20`` and ``long-20`` (3,000, 10,240) are of an earlier version, whose dense model
took 20 steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.few_steps import cost, distance
from benchmarks.recovery import Place, open_place, printed, references
from benchmarks.trials import Row, measure
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.save import save_module
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import start_job
from toolkit.pruning import criteria
from toolkit.pruning.plan import read_plan
from toolkit.recovery.settings import RecoverSettings

RESULTS = Path(__file__).parent / "results" / "quarter.json"
criteria.__path__.append(str(Path(__file__).parent / "criteria"))  # an arm's own
TARGET, IMAGES = "macs<=0.3", 5000
TRAINING: dict[str, dict[str, Any]] = {
    "short": {"steps": 400, "teaching_steps": 600, "trajectories": 4096},
    "long": {"steps": 300, "teaching_steps": 3410, "trajectories": 18432},
}


@dataclass(frozen=True)
class Arm:
    """What differs: of PruneSettings, of RecoverSettings, and whether singular values are scaled between the two."""

    prune: Mapping[str, Any] = field(default_factory=dict)
    recover: dict[str, Any] = field(default_factory=dict)
    scaled: bool = False


ARMS = {
    "default": Arm(),
    "jacobian": Arm(recover={"losses": {"distillation": 1.0, "jacobian": 0.1}}),  # in the place of features
    "svs": Arm(scaled=True),
    "rates": Arm(recover={"learning_rate": 4e-3, "teaching_rate": 2e-3}),
    "svs-rates": Arm(scaled=True, recover={"learning_rate": 4e-3, "teaching_rate": 2e-3}),
    "constant": Arm(recover={"schedule": "constant"}),
    "ema-0.9": Arm(recover={"ema": 0.9}),  # in the short training it only rises to 0.978, below the default's limit
    "rate-4e-3": Arm(recover={"learning_rate": 4e-3}),
    "rate-1e-3": Arm(recover={"learning_rate": 1e-3}),
    "teaching-rate-2e-3": Arm(recover={"teaching_rate": 2e-3}),
    "batch-16": Arm(recover={"batch_size": 16}),  # four times the steps
    "rates-batch-16": Arm(recover={"batch_size": 16, "learning_rate": 4e-3, "teaching_rate": 2e-3}),
    "rates-batch-8": Arm(recover={"batch_size": 8, "learning_rate": 4e-3, "teaching_rate": 2e-3}),
    "narrow-rates-batch-16": Arm(
        prune={"target": "macs<=0.24", "min_width": 0.25},
        recover={"batch_size": 16, "learning_rate": 4e-3, "teaching_rate": 2e-3},
    ),
    "narrow": Arm(prune={"target": "macs<=0.24", "min_width": 0.25}),  # 24, 16, 16 channels: 0.225
    "masks": Arm(prune={"criterion": "masks"}),
    "magnitude": Arm(prune={"criterion": "magnitude"}),
    "random": Arm(prune={"criterion": "random"}),
}


@torch.no_grad()
def scale_singular_values(model: nn.Module) -> None:
    """A weight U S V' becomes U sqrt(S) V', a bias is divided by the root of its norm, norms start anew."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
            module.weight.copy_((u * s.sqrt() @ v).view_as(module.weight))
            if module.bias is not None:
                module.bias.mul_((module.bias.norm() + 1e-8).rsqrt())


def share_cache(run: Path, shared: Path) -> None:
    """Scores, and the dense model's trajectories, are the same for every arm of a seed that leaves them as they are."""
    shared.mkdir(parents=True, exist_ok=True)
    if not (run / "cache").exists():
        (run / "cache").symlink_to(shared.resolve())


def row(case: Row, place: Place) -> dict[str, Any]:
    """Compress, teach and judge."""
    name, arm = f"{case['arm']}-{case['seed']}-{case['training']}", ARMS[case["arm"]]
    recover: dict[str, Any] = {"learning_rate": 2e-3, "sampling_steps": 4, "seed": case["seed"]}
    recover |= TRAINING[case["training"]] | arm.recover
    for steps in ("steps", "teaching_steps"):
        recover[steps] *= 64 // recover.get("batch_size", 64)
    prune = {"target": TARGET, "seed": case["seed"]} | dict(arm.prune)
    values = {"device": "cpu", "prune": prune, "recover": recover}
    job = start_job(place.folder / name, recipe.make(values, name), progress=printed(name))
    share_cache(job.run.path, place.folder / "shared")
    stages.prune(job)
    if arm.scaled:
        start = find_model(job.run.path / "prune" / "model")
        model = load_denoiser(start)
        scale_singular_values(model)
        save_module(model, start.denoiser)
    result = stages.recover(job)
    achieved = read_plan(job.run.path / "prune" / "plan.json").facts["achieved"]["macs_fraction"]
    return {
        "recipe": values,
        "achieved": achieved,
        "share_of_dense_training": cost(RecoverSettings(**recover), achieved),
        "teaching": result["teaching"],
        "frechet_distance": distance(job.compressed, "ddim", 4, IMAGES, place),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--training", choices=TRAINING, default="short")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = open_place(options.runs)
    facts = {"references": references(place, IMAGES)}
    cases = [{"arm": a, "seed": seed, "training": options.training} for seed in options.seeds for a in options.arms]
    measure(options.output, facts, cases, lambda case: row(case, place))


if __name__ == "__main__":
    main()
