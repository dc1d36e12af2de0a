"""Which group policy loses less: channels ranked `within` each norm group, or `whole` norm groups?

    python -m benchmarks.groups --work runs/groups

On the embedded default, over three seeds (calibration images and noise; order and noise of recovery), at the widths
that both policies can reach: 0.75 (0.56 of the MACs) and 0.5 (0.25; the next that `within` alone reaches is 0.34).
Beside them channels chosen at random. The same command resumes where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from benchmarks.trials import RECOVERY, Row, Trials, measure, trials
from toolkit.core.progress import silent
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.prune import count_for, dense_prunable
from toolkit.pruning import calibration, surgery
from toolkit.pruning.criteria.base import Task, criterion_called
from toolkit.pruning.gradients import Effort
from toolkit.pruning.scores import read_scores, write_scores
from toolkit.pruning.selection import Scores
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target

SEEDS, WIDTHS, ARMS = (0, 1, 2), (0.75, 0.5), ("within", "whole", "random")
SETTINGS = PruneSettings(score_timesteps=32)


def main() -> None:
    options = arguments()
    bench = trials(options.work)
    facts = {
        "dense": bench.loss(load_denoiser(bench.dense)),
        "pruning": SETTINGS.model_dump(),
        "recovery": RECOVERY,
    }
    wanted = [{"seed": seed, "width": width, "arm": arm} for seed, width, arm in itertools.product(SEEDS, WIDTHS, ARMS)]
    measure(options.output, facts, wanted, lambda case: row(bench, case))


def row(bench: Trials, case: Row) -> dict[str, Any]:
    policy = "within" if case["arm"] == "random" else case["arm"]
    prunable = dense_prunable(bench.dense, SETTINGS.model_copy(update={"groups": policy}))
    counted = count_for(bench.dense)
    values = solve(prunable.space, parse_target(f"width={case['width']}"), counted).uniform
    config = prunable.space.configure(values)
    kept = prunable.kept(scores(bench, case["seed"], "random" if case["arm"] == "random" else "diff-pruning"), config)
    scheduler = load_scheduler(bench.dense)
    timesteps = timesteps_and_kind(scheduler)[0]
    pruned, _ = surgery.slice_model(load_denoiser(bench.dense), config, prunable.layout, kept, timesteps)
    macs = counted(config).macs / counted(prunable.config).macs
    name = f"{case['arm']}-{case['width']}-{case['seed']}"
    return {"macs_fraction": macs, **bench.one_shot_and_recovered(name, pruned, case["seed"])}


def scores(bench: Trials, seed: int, criterion: str) -> Scores:
    """The scores of a seed; both policies read the same ones, as a policy only binds which channels go together."""
    path, threshold = bench.work / f"{criterion}-{seed}.safetensors", float(SETTINGS.threshold)
    stored = read_scores(path)
    if stored is None:
        scheduler = load_scheduler(bench.dense)
        settings, conditioner = SETTINGS.model_copy(update={"seed": seed}), open_conditioner(bench.dense, "cpu")
        batch = calibration.draw(bench.train, settings, scheduler, conditioner, "cpu").scored
        model, layout = load_denoiser(bench.dense), dense_prunable(bench.dense, SETTINGS).layout
        effort = Effort(timesteps=SETTINGS.score_timesteps)
        stored = criterion_called(criterion).score(
            Task(model, layout, batch, (threshold,), False, seed, silent, effort)
        )
        write_scores(path, stored, "")
    return stored[threshold].scores


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs") / "groups", help="holds what to continue from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "groups.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
