"""Does fitting the sliced layers to the dense model's outputs help, at once and after recovery?

    python -m benchmarks.reconstruct --work runs/groups

On the embedded default at width 0.75, over three seeds: not at all, fitted on the dense model's activations, and on
those of the sliced model. Resumes after an interruption; reads the scores that benchmarks.groups left in its work
folder, or makes them.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from benchmarks.groups import SETTINGS, scores
from benchmarks.trials import RECOVERY, Row, Trials, measure, trials
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.prune import count_for, dense_prunable
from toolkit.pruning import calibration, surgery
from toolkit.pruning.reconstruct import reconstruct
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target

SEEDS, WIDTH, POINTS = (0, 1, 2), 0.75, 8
ARMS = [*itertools.product(SEEDS, ("sliced", "none")), *itertools.product(SEEDS, ("dense",))]  # the question first


def main() -> None:
    options = arguments()
    bench = trials(options.work)
    facts = {"dense": bench.loss(load_denoiser(bench.dense)), "timesteps": POINTS, "recovery": RECOVERY}
    wanted = [{"seed": seed, "arm": arm} for seed, arm in ARMS]
    measure(options.output, facts, wanted, lambda case: row(bench, case))


def row(bench: Trials, case: Row) -> dict[str, Any]:
    prunable = dense_prunable(bench.dense, SETTINGS)
    config = prunable.space.configure(
        solve(prunable.space, parse_target(f"width={WIDTH}"), count_for(bench.dense)).uniform
    )
    kept = prunable.kept(scores(bench, case["seed"], "diff-pruning"), config)
    scheduler, model = load_scheduler(bench.dense), load_denoiser(bench.dense)
    steps = timesteps_and_kind(scheduler)[0]
    pruned, _ = surgery.slice_model(model, config, prunable.layout, kept, steps)
    if case["arm"] != "none":
        settings, conditioner = SETTINGS.model_copy(update={"seed": case["seed"]}), open_conditioner(bench.dense, "cpu")
        batch = calibration.draw(bench.train, settings, scheduler, conditioner, "cpu").scored
        points = [int(steps * (i + 0.5) / POINTS) for i in range(POINTS)]
        reconstruct(model, pruned, prunable.layout, kept, batch, points, inputs=case["arm"])
    return bench.one_shot_and_recovered(f"reconstruct-{case['arm']}-{case['seed']}", pruned, case["seed"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs") / "groups", help="holds what to continue from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "reconstruct.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
