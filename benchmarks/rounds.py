"""At 0.25 of the MACs: is it better to prune at once, or in rounds with recovery between them?

    python -m benchmarks.rounds RUNS [--arms one-shot rounds] [--target "macs<=0.3"] [--seeds 0 1 2]

The embedded default is pruned to at most 0.30 of its MACs (0.252) and recovered, at once or in three rounds, in as many
training steps of 64 images in all. Every row is judged by the Frechet distance of 5,000 samples (DDIM, 20 steps) and by
its error on held-out images, and says what its training cost as a share of the dense model's. Results:
benchmarks/results/rounds.json; a row that is in it is not measured again, an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.few_steps import DENSE_TRAINING
from benchmarks.recovery import Place, held_out, open_place, printed, references
from benchmarks.trials import Row, measure
from toolkit.evaluation.distances import frechet_distance
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import Job, start_job
from toolkit.pruning.plan import read_plan

RESULTS = Path(__file__).parent / "results" / "rounds.json"
STEPS, IMAGES = 2490, 5000
ARMS = {"one-shot": 1, "rounds": 3}  # the number of rounds


def row(case: Row, place: Place) -> dict[str, Any]:
    """Compress and judge."""
    name, rounds = f"{case['arm']}-{case['seed']}-{case['target']}-{case['steps']}", ARMS[case["arm"]]
    recover = {"steps": case["steps"] // rounds, "learning_rate": 0.002, "seed": case["seed"]}
    prune = {"target": case["target"], "seed": case["seed"]}
    values = {"device": "cpu", "rounds": rounds, "prune": prune, "recover": recover}
    job = start_job(place.folder / name, recipe.make(values, name), progress=printed(name))
    cpu = time.process_time()
    stages.prune(job)
    stages.recover(job)
    real = place.real(place.reference.subset(range(IMAGES)))
    achieved = fractions(job)
    return {
        "recipe": values,
        "achieved": achieved,
        "cpu_s": time.process_time() - cpu,  # of this process; less than all of a run that was resumed
        "share_of_dense_training": sum(recover["steps"] * (3 * one + 1) for one in achieved) / (3 * DENSE_TRAINING),
        "held_out": held_out(job.compressed, place),
        "frechet_distance": float(frechet_distance(place.features(job.compressed, IMAGES), real)),
    }


def fractions(job: Job) -> list[float]:
    """MACs over the dense model's, of each round in order."""
    plans = [*sorted(job.run.path.glob("rounds/*/prune/plan.json")), job.run.path / "prune" / "plan.json"]
    return [float(read_plan(path).facts["achieved"]["macs_fraction"]) for path in plans]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=["one-shot", "rounds"])
    parser.add_argument("--target", default="macs<=0.3", help="0.252 is the nearest that a stock configuration has")
    parser.add_argument("--steps", type=int, default=STEPS, help="of recovery, in all rounds together: a multiple of 3")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = open_place(options.runs)
    shared = {"target": options.target, "steps": options.steps}
    cases = [{"arm": arm, "seed": seed, **shared} for seed in options.seeds for arm in options.arms]
    facts = {"references": references(place, IMAGES)}
    measure(options.output, facts, cases, lambda case: row(case, place))


if __name__ == "__main__":
    main()
