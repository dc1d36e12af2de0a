"""Is the better plan told by its loss at once, or by what a few steps of recovery leave of it?

    python -m benchmarks.finalists --work runs/finalists

On the embedded default, over three seeds (calibration images and noise; order and noise of recovery): every largest
configuration under a bound on MACs is pruned and recovered, its loss on held-out images noted at once and along the
way. At each of these points the plan that is best there is taken; what is printed is how much worse than the best of
all it ends, on other images. The same command resumes where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.groups import scores
from benchmarks.trials import RECOVERY, Row, Trials, measure, trials
from toolkit.core.files import read_json
from toolkit.diffusion.objective import timesteps_and_kind
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.save import save_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.prune import count_for, dense_prunable
from toolkit.pruning import surgery
from toolkit.pruning.calibration import held_out_loss
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.solver import meet
from toolkit.pruning.targets import parse_target
from toolkit.recovery.loop import train
from toolkit.recovery.prepare import prepare
from toolkit.recovery.settings import RecoverSettings

SEEDS, TARGETS, NOTED = (0, 1, 2), ("macs<=0.6", "macs<=0.75"), (10, 20, 40, 100)
SHOWN, JUDGED = 32, 96  # held-out images that the choice is made on (as many as a run has), and that judge it
SETTINGS = PruneSettings(score_timesteps=32)
TRAINED = RecoverSettings(**RECOVERY | {"steps": NOTED[-1]})


def main() -> None:
    options = arguments()
    bench = trials(options.work)
    facts = {"pruning": SETTINGS.model_dump(), "recovery": TRAINED.model_dump()}
    prunable, counted = dense_prunable(bench.dense, SETTINGS), count_for(bench.dense)
    wanted = [
        {"target": target, "seed": seed, "widths": list(values)}
        for target, seed in itertools.product(TARGETS, SEEDS)
        for values in meet(prunable.space, parse_target(target), counted)
    ]
    measure(options.output, facts, wanted, lambda case: row(bench, case))
    for line in regrets(read_json(options.output)["rows"]):
        print(line)


def row(bench: Trials, case: Row) -> dict[str, Any]:
    """The share of scores kept, the loss at once and after each of ``NOTED`` steps of a recovery, and at its end."""
    prunable = dense_prunable(bench.dense, SETTINGS)
    config = prunable.space.configure(tuple(case["widths"]))
    ranked = scores(bench, case["seed"], "diff-pruning")
    timesteps = timesteps_and_kind(load_scheduler(bench.dense))[0]
    kept = prunable.kept(ranked, config)
    pruned, _ = surgery.slice_model(load_denoiser(bench.dense), config, prunable.layout, kept, timesteps)
    folder = bench.work / "tried"
    save_model(bench.dense, pruned, folder)
    shown, others = bench.judged.part(slice(SHOWN)), bench.judged.part(slice(SHOWN, SHOWN + JUDGED))
    losses = {0: held_out_loss(pruned, shown)}
    settings = TRAINED.model_copy(update={"seed": case["seed"]})
    training, state = prepare(settings, bench.dense, find_model(folder), bench.train, "cpu")
    for _ in train(training, state):
        if state.step in NOTED:
            pruned.load_state_dict({**pruned.state_dict(), **state.average})
            losses[state.step] = held_out_loss(pruned, shown)
    shutil.rmtree(folder)
    retained = prunable.retained(ranked, tuple(case["widths"]))
    return {"retained": retained, "losses": losses, "recovered": held_out_loss(pruned, others)}


def regrets(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each target and seed: how much worse than the best the plan ends that is best after so many steps."""
    for (target, seed), same in itertools.groupby(rows, lambda one: (one["target"], one["seed"])):
        plans = list(same)
        best = min(plan["recovered"] for plan in plans)
        ways = {f"{step} steps": min(plans, key=lambda plan: plan["losses"][str(step)]) for step in (0, *NOTED[:-1])}
        ways["retained"] = max(plans, key=lambda plan: plan["retained"])
        worse = ", ".join(f"{way} {plan['recovered'] / best - 1:.2%}" for way, plan in ways.items())
        yield f"{target}, seed {seed}, {len(plans)} plans: {worse}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs") / "finalists", help="holds what to continue from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "finalists.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
