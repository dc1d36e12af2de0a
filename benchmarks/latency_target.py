"""At equal measured latency, what do ``latency=``, ``macs=`` and ``width=`` keep, at once and after equal recovery?

``python benchmarks/latency_target.py RUNS`` aims at each GOAL (latency over dense), then asks which MACs and which
width would have landed there: of all that ``macs=`` or ``width=`` can give, the one whose latency in the table is
nearest. The three are pruned, recovered and judged alike, each in a run folder below RUNS, and their models measured in
turns with the dense one. The same command resumes: finished runs and entries of the table are taken as they are. Writes
benchmarks/results/latency-target.json, or what --output names.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.adapters.space import Space, Values
from toolkit.core.environment import machine, versions
from toolkit.core.errors import DtkError
from toolkit.core.files import write_json
from toolkit.core.progress import silent
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.pipeline import stages
from toolkit.pipeline.job import measured, start_job
from toolkit.pipeline.prune import count_for, dense_prunable
from toolkit.pipeline.recipe import make
from toolkit.pruning.cost import Count, price
from toolkit.pruning.latency import Latencies
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target

RESULTS = Path(__file__).parent / "results" / "latency-target.json"


def rivals(space: Space, counted: Count, cost: LatencyCost, goal: float) -> dict[str, str]:
    """The targets that land nearest the goal: one by latency, one by MACs (in hundredths), one by uniform width."""
    counted = remembered(counted)
    prices = price(space, counted, ["macs"])["macs"]
    dense = prices(space.dense_values)
    widths = [value / space.variables[0].dense for value in space.variables[0].choices]
    named = {
        "macs": [f"macs={prices(values) / dense:.2f}" for values in space],
        "width": [f"width={width:.4f}" for width in widths],
    }
    reached = {figure: nearest(space, counted, cost, goal, targets) for figure, targets in named.items()}
    return {"latency": f"latency={goal}", **reached}


def remembered(counted: Count) -> Count:
    """``counted`` asked once for each configuration: every target prices the same few networks."""
    known = cache(lambda text: counted(json.loads(text)))
    return lambda config: known(json.dumps(dict(config), sort_keys=True))


def nearest(space: Space, counted: Count, cost: LatencyCost, goal: float, targets: list[str]) -> str:
    """Of several targets the one whose most evenly cut configuration takes nearest ``goal`` of the dense latency."""

    reached: dict[str, Values] = {}
    for target in dict.fromkeys(targets):
        with suppress(DtkError):  # no configuration meets it
            reached[target] = solve(space, parse_target(target), counted).uniform
    while True:
        best = min(reached, key=lambda target: abs(cost.fraction(reached[target]) - goal))
        if not cost.settle([reached[best]]):
            return best


def row(folder: Path, target: str, base: dict[str, Any], found: Latencies) -> dict[str, Any]:
    """One run, or the words of its refusal: a small model's widths leave gaps between the latencies it can have."""
    try:
        return {"target": target} | finished(folder, target, base, found)
    except DtkError as refused:
        return {"target": target, "refused": str(refused)}


def finished(folder: Path, target: str, base: dict[str, Any], found: Latencies) -> dict[str, Any]:
    """What a run keeps at once, what recovery leaves, and its latency measured again."""
    job = start_job(folder, make(base | {"prune": base["prune"] | {"target": target}}, "The benchmark's recipe"))
    facts = stages.run_all(job)["stages"]
    plan = facts["prune"]
    return {
        "widths": [width["achieved"] for width in plan["widths"]],
        "macs_fraction": plan["achieved"]["macs_fraction"],
        "retained": plan["retained"],
        "one_shot_loss": plan["held_out_loss"]["one_shot"],
        "dense_loss": plan["held_out_loss"]["dense"],
        "recovered": facts.get("recover"),
        "distance": facts["evaluate"]["frechet_distance"] if "evaluate" in facts else None,
        "latency": asdict(found.check(load_denoiser(job.compressed))),
    }


def recipe_of(given: argparse.Namespace) -> dict[str, Any]:
    """What all runs have in common."""
    stages: dict[str, Any] = dict.fromkeys(("recover", "evaluate", "export", "profile", "handoff"))
    if given.steps:
        stages["recover"] = {"steps": given.steps}
        stages["evaluate"] = {"images": given.images, "sampling_steps": 20} if given.images else None
    prune = {"latency": {"runner": "onnxruntime", "batch": given.batch}, "criterion": given.criterion}
    return {"model": given.model, "data": {"source": given.data}, "device": "cpu", "prune": prune, **stages}


def main() -> None:
    """Fill in what is missing of the results."""
    given = arguments()
    base = recipe_of(given)
    recipe = make(base | {"prune": base["prune"] | {"target": "latency=0.8"}}, "The benchmark's recipe")
    dense = find_model(given.model)
    prunable, counted, rows = dense_prunable(dense, recipe.prune), count_for(dense), []
    model = Path(given.model).name if given.model else "the embedded default"
    facts = {"model": model, "machine": machine(), "versions": versions()}
    facts |= {name: getattr(given, name) for name in ("batch", "steps", "images", "criterion")}
    with measured(recipe, dense, silent) as found:
        assert found is not None
        cost = LatencyCost(prunable.space, found.measure)
        for goal in map(float, given.goals.split(",")):
            for figure, target in rivals(prunable.space, counted, cost, goal).items():
                place = given.runs / target.replace("=", "-")
                rows.append({"goal": goal, "by": figure} | row(place, target, base, found))
                write_json(given.output, facts | {"prediction_errors": sorted(cost.surprises.values()), "rows": rows})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", help="a diffusers folder; none: the embedded default")
    parser.add_argument("--data", help="its images; none: the embedded default's")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--goals", default="0.75,0.6,0.5")
    parser.add_argument("--steps", type=int, default=200, help="of recovery; 0 leaves it out")
    parser.add_argument("--images", type=int, default=1000, help="to judge the recovered model by; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--criterion", default="diff-pruning", help="magnitude needs no gradients")
    return parser.parse_args()


if __name__ == "__main__":
    main()
