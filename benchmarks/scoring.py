"""How much cheaper can Diff-Pruning's scores be had, and do the same channels stay?

    python -m benchmarks.scoring

On the embedded default. The reference visits every timestep before the stop, as the paper does. Beside it: fewer
timesteps of the same images and noise, the same with noise draws that alternate, and the reference itself under other
noise, which is how much its choice means. Cost is counted in forward passes of one image, a backward pass as two.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.core.progress import silent
from toolkit.data.open import open_images, split
from toolkit.models.autoencoder import image_shape
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.prune import count_for, dense_prunable
from toolkit.pruning import calibration, selection
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.criteria.base import Task, criterion_called
from toolkit.pruning.gradients import Effort
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.scoring import Scored
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target

THRESHOLD, DRAWS, WIDTHS = 0.05, 4, (0.75, 0.5)
TIMESTEPS = (64, 32, 16, 8)


def main() -> None:
    options = arguments()
    dense = find_model(None)
    train, _ = split(open_images(None, image_shape(dense)), holdout=0.5, seed=0)
    scheduler, conditioner = load_scheduler(dense), open_conditioner(dense, "cpu")
    settings = PruneSettings(calibration_images=options.images, noise_draws=DRAWS)
    many = calibration.draw(train, settings, scheduler, conditioner, "cpu").scored
    one = replace(many, more_noise=())
    prunable = dense_prunable(dense, settings)
    task = Task(load_denoiser(dense), prunable.layout, one, (THRESHOLD,), False, 0, silent)
    reference, facts = scored(task)
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "images": options.images}
    report |= {"threshold": THRESHOLD, "reference": facts, "rows": []}
    for name, variant in cases(task, one, many):
        found, facts = scored(variant)
        cheaper = report["reference"]["image_passes"] / facts["image_passes"]
        kept = {f"kept_overlap_{width}": overlap(prunable, reference, found, width, dense) for width in WIDTHS}
        ranks = selection.rank_correlation(reference.scores, found.scores)
        report["rows"].append({"case": name, "cheaper": cheaper, **kept, "rank_correlation": ranks, **facts})
        write_json(options.output, report)


def cases(task: Task, one: Calibration, many: Calibration) -> list[tuple[str, Task]]:
    few = [(f"{n} timesteps", replace(task, effort=Effort(timesteps=n))) for n in TIMESTEPS]
    turns = replace(task, calibration=many, effort=Effort(timesteps=32))
    other = replace(task, calibration=replace(one, noise=many.more_noise[0]))
    return [*few, (f"32 timesteps, {DRAWS} noise draws", turns), ("every timestep, other noise", other)]


def scored(task: Task) -> tuple[Scored, dict[str, Any]]:
    started = time.process_time()
    found = criterion_called("diff-pruning").score(task)[THRESHOLD]
    seconds = time.process_time() - started
    visited, looked = found.facts["timesteps_visited"], len(found.facts.get("timesteps_looked_at", [0]))
    assert task.calibration is not None
    passes = (3 * visited + looked) * len(task.calibration.images)
    stop = found.facts["stop_timestep"]
    return found, {"stop_timestep": stop, "timesteps": visited, "image_passes": passes, "cpu_s": round(seconds, 1)}


def overlap(prunable: Prunable, one: Scored, other: Scored, width: float, dense: ModelFolder) -> float:
    values = solve(prunable.space, parse_target(f"width={width}"), count_for(dense)).uniform
    config = prunable.space.configure(values)
    sizes = {name: group.size for name, group in prunable.layout.groups.items()}
    return selection.kept_overlap(prunable.kept(one.scores, config), prunable.kept(other.scores, config), sizes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scoring.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
