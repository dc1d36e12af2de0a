"""What does a compressed model lose when it is taught to sample in few steps, and which way of teaching loses least?

    python -m benchmarks.few_steps RUNS [--rows choice/ figure/ rivals/] [--images 5000] [--target macs=0.57]

The embedded default, pruned to ``--target``, is recovered once, in ``--recovery`` steps of 64 (0: taught as it was
pruned), or in as many images in smaller batches (``--batch-size``). Every row teaches a copy of it. ``choice/``:
methods and prediction types on 4 steps, at the same training steps, with the CPU time of each, judged on 1,000 samples;
``equal-time/``: the other method in the time that the trajectories take as well; ``figure/``: the defaults in 1, 2, 4
and 8 steps, with three seeds on 4 and 2 (``--trajectories 6144`` for 8, whose path is twice as long). ``rivals/``: the
dense model's own samplers, in as few steps and in as many as cost the same or twice that. All are judged against the
same real images. Results: benchmarks/results/few_steps.json; a row that is in it is not measured again, so those of
another target or training want a RUNS and a file of their own (``--output``).

Training cost is counted in MACs: a training step is three passes of the network it trains, a teacher's pass is one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.recovery import Place, open_place, printed
from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.diffusion.sampling import SAMPLERS
from toolkit.evaluation.distances import frechet_distance
from toolkit.evaluation.features import open_extractor
from toolkit.evaluation.judging import floor_images
from toolkit.evaluation.samples import SamplingSettings, sample_images
from toolkit.models.folder import ModelFolder, find_model
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import Job, start_job
from toolkit.pruning.plan import read_plan
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.teaching import known_methods, stages_of

RESULTS = Path(__file__).parent / "results" / "few_steps.json"
DENSE_TRAINING = 20_043  # steps of 64 that the embedded default was trained for (recipes/fashion-ddpm-16.yaml)
RIVALS = {"ddim": (5, 20), "dpm-solver": (2, 4, 5, 10), "unipc": (4, 5)}


@dataclass(frozen=True)
class Row:
    """One teaching: what of RecoverSettings it changes, and how many samples judge it."""

    name: str
    changes: dict[str, Any]
    images: int


def rows(images: int, steps: int, trajectories: int, others: dict[str, Any]) -> Iterator[Row]:
    """The choice first: which method, and what the student predicts; then the figures of the settings' defaults."""
    base: dict[str, Any] = {"sampling_steps": 4, "teaching_steps": steps, "trajectories": trajectories, **others}
    for method in sorted(known_methods(), reverse=True):
        for kind in ("v_prediction", "epsilon"):
            yield Row(f"choice/{method}/{kind}", base | {"teaching": method, "prediction_type": kind}, 1000)
    longer = {"teaching": "progressive", "teaching_steps": 4 * steps // 3}  # as the trajectories also take time
    yield Row("equal-time/progressive/v_prediction", base | longer | {"prediction_type": "v_prediction"}, 1000)
    for number in (4, 2, 8, 1):
        yield Row(f"figure/{number}-steps/0", base | {"sampling_steps": number}, images)
    for number, seed in product((4, 2), (1, 2)):
        yield Row(f"figure/{number}-steps/{seed}", base | {"sampling_steps": number, "seed": seed}, images)


def recovered(place: Place, target: str, steps: int, batch_size: int) -> Job:
    """The run that every teaching starts from."""
    training: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": 0.002}
    if not steps:  # settings that neither recover nor teach are refused; how many steps are taught, each row says
        training["sampling_steps"] = 4
    values = {"device": "cpu", "prune": {"target": target}, "recover": training}
    job = start_job(
        place.folder / f"recovered-{target}", recipe.make(values, "recovered"), progress=printed("recovered")
    )
    stages.prune(job)
    if steps:
        stages.recover(job)
    return job


def taught(row: Row, start: Job, place: Place) -> dict[str, Any]:
    """Teach a copy of ``start`` and judge it in its own steps; trajectories are shared by rows of one seed."""
    folder = place.folder / f"{row.name.replace('/', '-')}-{start.recipe.prune.target}"
    if not folder.exists():
        shutil.copytree(start.run.path, folder, ignore=shutil.ignore_patterns("recipe.yaml", "cache"))
        (folder / "cache").symlink_to(start.run.path / "cache")
    recover = start.recipe.recover
    assert recover is not None
    settings = RecoverSettings(**recover.model_dump() | row.changes)
    job = start_job(folder, start.recipe.model_copy(update={"recover": settings}), progress=printed(row.name))
    cpu = time.process_time()
    result = stages.recover(job)
    macs = read_plan(folder / "prune" / "plan.json").facts["achieved"]["macs_fraction"]
    return {
        "macs_fraction": macs,
        "teaching": result["teaching"],
        "cpu_s": time.process_time() - cpu,
        "share_of_dense_training": cost(settings, macs),
        "frechet_distance": distance(job.compressed, "ddim", settings.sampling_steps or 0, row.images, place),
    }


def cost(settings: RecoverSettings, macs: float) -> float:
    """MACs of recovery and teaching over those of the dense model's training; ``macs``: of a pass, over dense."""
    total = settings.steps * (3 * macs + 1)
    for number, stage in enumerate(stages_of(settings)):
        total += stage.training * 3 * macs
        if stage.passes > 1 or settings.teaching == "trajectory":
            total += settings.trajectories * stage.teacher_steps / settings.batch_size
        else:
            total += stage.training * 2 * (macs if number else 1)
    return float(total * settings.batch_size / 64 / (3 * DENSE_TRAINING))


def distance(model: ModelFolder, sampler: str, steps: int, count: int, place: Place) -> float:
    images = sample_images(model, SamplingSettings(sampler, steps, 0), count, place.folder / "cache")
    real = place.real(place.reference.subset(range(count)))
    return float(frechet_distance(open_extractor("efficientnet-lite0")(images), real))


def rivals(count: int, place: Place) -> dict[str, Any]:
    """The dense model by sampler and number of steps, and real images against real ones."""
    dense, real = find_model(None), place.real(place.reference.subset(range(count)))
    floor, _ = floor_images(place.reference, place.train, count)
    assert floor is not None and set(RIVALS) < set(SAMPLERS)
    curves = {
        sampler: {str(steps): distance(dense, sampler, steps, count, place) for steps in numbers}
        for sampler, numbers in RIVALS.items()
    }
    return {"floor": float(frechet_distance(place.real(floor), real)), "dense": curves}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="*", default=["choice/", "equal-time/", "figure/", "rivals/"])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--target", default="macs=0.57")
    parser.add_argument("--recovery", type=int, default=600)
    parser.add_argument("--teaching", type=int, default=2100)
    parser.add_argument("--trajectories", type=int, default=12288)
    parser.add_argument("--teacher-steps", type=int, help="of a trajectory; none: the settings' default")
    parser.add_argument(
        "--batch-size", type=int, default=64, choices=(8, 16, 32, 64), help="as many images: of 16 four times the steps"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    place = open_place(options.runs)
    facts = {"machine": machine("cpu"), "versions": versions()}
    found: dict[str, Any] = {"rivals": {}, "rows": {}} | (
        read_json(options.output) if options.output.exists() else facts
    )
    each = 64 // options.batch_size
    recovery, teaching = options.recovery * each, options.teaching * each
    start = recovered(place, options.target, recovery, options.batch_size)
    shared = {"target": options.target, "recovery": recovery}
    others = {"teacher_steps": options.teacher_steps} if options.teacher_steps else {}
    others |= {"batch_size": options.batch_size} if each > 1 else {}
    for row in rows(options.images, teaching, options.trajectories, others):
        if row.name in found["rows"] or not any(row.name.startswith(prefix) for prefix in options.rows):
            continue
        found["rows"][row.name] = asdict(row) | shared | taught(row, start, place)
        write_json(options.output, found)
        print(row.name, found["rows"][row.name]["frechet_distance"], flush=True)
    if "rivals/" in options.rows and str(options.images) not in found["rivals"]:
        found["rivals"][str(options.images)] = rivals(options.images, place)
        write_json(options.output, found)


if __name__ == "__main__":
    main(sys.argv[1:])
