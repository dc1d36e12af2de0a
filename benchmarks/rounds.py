"""At 0.25 of the MACs: is it better to prune at once, or in rounds with recovery between them?

    python -m benchmarks.rounds RUNS [--rows one-shot/ rounds/]

The embedded default is pruned to at most 0.30 of its MACs (0.252) and recovered, at once or in three rounds, in as many
training steps of 64 images in all. Every row is judged by the Frechet distance of 5,000 samples (DDIM, 20 steps) and by
its error on held-out images, and says what its training cost as a share of the dense model's. Results:
benchmarks/results/rounds.json; a row that is in it is not measured again, an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.few_steps import DENSE_TRAINING
from benchmarks.recovery import Place, held_out, open_place, printed, references
from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.evaluation.distances import frechet_distance
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import Job, start_job
from toolkit.pruning.plan import read_plan

RESULTS = Path(__file__).parent / "results" / "rounds.json"
TARGET, STEPS, ROUNDS, IMAGES = "macs<=0.3", 2490, 3, 5000  # 0.252 is the nearest that a stock configuration has
ARMS: dict[str, dict[str, Any]] = {
    "one-shot": {},
    "rounds": {},
    "jacobian": {"losses": {"distillation": 1.0, "jacobian": 0.1}},
}


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and recipe of each, seed by seed."""
    for seed in range(3):
        for arm, changes in ARMS.items():
            rounds = ROUNDS if arm == "rounds" else 1
            recover = {"steps": STEPS // rounds, "learning_rate": 0.002, "seed": seed, **changes}
            pruning = {"target": TARGET, "seed": seed}
            yield f"{arm}/{seed}", {"device": "cpu", "rounds": rounds, "prune": pruning, "recover": recover}


def measure(name: str, values: dict[str, Any], place: Place) -> dict[str, Any]:
    """Compress and judge."""
    job = start_job(place.folder / name.replace("/", "-"), recipe.make(values, name), progress=printed(name))
    cpu = time.process_time()
    stages.prune(job)
    stages.recover(job)
    real = place.real(place.reference.subset(range(IMAGES)))
    return {
        "recipe": values,
        "achieved": fractions(job),
        "cpu_s": time.process_time() - cpu,
        "share_of_dense_training": cost(job),
        "held_out": held_out(job.compressed, place),
        "frechet_distance": float(frechet_distance(place.features(job.compressed, IMAGES), real)),
    }


def fractions(job: Job) -> list[float]:
    """MACs over the dense model's, of each round in order."""
    plans = [*sorted(job.run.path.glob("rounds/*/prune/plan.json")), job.run.path / "prune" / "plan.json"]
    return [float(read_plan(path).facts["achieved"]["macs_fraction"]) for path in plans]


def cost(job: Job) -> float:
    """MACs of recovery, three passes of what is trained and one of its teacher, over those of the dense training."""
    assert job.recipe.recover is not None
    passes = sum(3 * fraction + 1 for fraction in fractions(job))
    return float(job.recipe.recover.steps * passes / (3 * DENSE_TRAINING))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="*", default=["one-shot/", "rounds/"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    place = open_place(options.runs)
    facts: dict[str, Any] = {"machine": machine("cpu"), "versions": versions(), "references": {}, "rows": {}}
    found: dict[str, Any] = read_json(options.output) if options.output.exists() else facts
    for name, values in rows():
        if name in found["rows"] or not any(name.startswith(prefix) for prefix in options.rows):
            continue
        found["references"] = found["references"] or references(place, IMAGES)
        found["rows"][name] = measure(name, values, place)
        write_json(options.output, found)
        print(name, found["rows"][name]["frechet_distance"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
