"""Which recovery is best at equal steps and at equal time, and how much of the pruning's damage it leaves.

``python benchmarks/recovery.py RUNS`` prunes the embedded default to 0.57 of its MACs, recovers it with every mix of
losses, and judges each by its held-out loss and by the Fréchet distance that ``dtk evaluate`` reports. Runs and samples
stay in the folder RUNS, rows in benchmarks/results/recovery.json: finished rows are skipped and the same command
resumes. ``--rows NAME …`` does only those rows; a name
that ends in / stands for all that begin so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.core.noise import generator, normal
from toolkit.core.run_folder import RunFolder
from toolkit.data.images import Images
from toolkit.diffusion.objective import noisy, target, timesteps_and_kind
from toolkit.evaluation.distances import frechet_distance
from toolkit.evaluation.features import open_extractor
from toolkit.evaluation.judging import Resources, features_of, floor_images
from toolkit.evaluation.samples import SamplingSettings, sample_images
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline import recipe, stages
from toolkit.pipeline.job import Job, start_job

RESULTS = Path(__file__).parent / "results" / "recovery.json"
BATCH, RATE, TARGET = 16, 2e-3, "macs=0.57"
MIXES: dict[str, dict[str, Any]] = {
    "noise": {"losses": {"noise": 1.0}},
    "noise@1e-3": {"losses": {"noise": 1.0}, "learning_rate": 1e-3},
    "noise@5e-4": {"losses": {"noise": 1.0}, "learning_rate": 5e-4},
    "noise+distillation": {"losses": {"noise": 1.0, "distillation": 1.0}},
    "distillation": {"losses": {"distillation": 1.0}},
    "distillation+features": {"losses": {"distillation": 1.0, "features": 0.01}},
    "distillation+jacobian": {"losses": {"distillation": 1.0, "jacobian": 0.1}},
    "noise+distillation+jacobian": {"losses": {"noise": 1.0, "distillation": 1.0, "jacobian": 0.1}},
    "distillation+features*10": {"losses": {"distillation": 1.0, "features": 0.1}},
    "distillation+min-snr": {"losses": {"distillation": 1.0}, "min_snr_gamma": 5.0},
}
PLAIN, WINNER = "noise", "distillation+features"
RATES = [("noise@1e-3", 0), ("noise@5e-4", 0), ("noise@1e-3", 1), ("noise@1e-3", 2)]  # plain fine-tuning at its best
EQUAL_TIME = 330  # steps of the winner in the CPU time of 500 plain ones (0.158 and 0.104 s a step)


@dataclass(frozen=True)
class Row:
    """One training: how it was pruned, what it minimises, and how it is judged."""

    name: str
    mix: str
    steps: int
    seed: int = 0
    criterion: str = "diff-pruning"
    images: int = 5000


def rows() -> list[Row]:
    """What is options, the most telling first: the choice, plain fine-tuning against the winner, the other criteria."""
    choice = [Row(f"choice/{mix}", mix, 500, images=1000) for mix in MIXES if "@" not in mix]
    pairs = [Row(f"figure/{mix}/{seed}", mix, 2000, seed) for seed in range(3) for mix in (PLAIN, WINNER)]
    others = [Row(f"criterion/{name}", WINNER, 2000, criterion=name) for name in ("random", "scratch")]
    equal_time = Row(f"equal-time/{WINNER}", WINNER, EQUAL_TIME, images=1000)
    rates = [Row(f"figure/{mix}/{seed}", mix, 2000, seed) for mix, seed in RATES]
    return [*choice[:4], equal_time, *pairs[:2], *choice[4:], *pairs[2:], *others, *rates]


@dataclass(frozen=True)
class Place:
    """The folder of the runs, the images to judge by, and what judges."""

    folder: Path
    train: Images
    reference: Images

    def features(self, model: ModelFolder, count: int) -> np.ndarray:
        """Features of ``count`` samples of a model, DDIM 20."""
        images = sample_images(model, SamplingSettings("ddim", 20, 0), count, self.folder / "cache")
        return open_extractor("efficientnet-lite0")(images)

    def real(self, images: Images) -> np.ndarray:
        return features_of(images, open_extractor("efficientnet-lite0"), Resources(self.folder / "cache"))


def open_place(folder: Path) -> Place:
    train, reference = Job(RunFolder(folder), recipe.Recipe()).images
    return Place(folder, train, reference)


def references(place: Place, count: int) -> dict[str, Any]:
    """The dense model's distance and the floor, at ``count`` images per side; the floor's are the next real ones."""
    real = place.real(place.reference.subset(range(count)))
    floor, what = floor_images(place.reference, place.train, count)
    dense = find_model(None)
    return {
        "images": count,
        "dense": frechet_distance(place.features(dense, count), real),
        "floor": frechet_distance(place.real(floor), real) if floor else None,
        "floor_images": what,
        "held_out": held_out(dense, place),
    }


def measure(row: Row, place: Place) -> dict[str, Any]:
    """Prune, recover and judge."""
    folder = place.folder / row.name.replace("/", "-")
    values = {
        "device": "cpu",
        "prune": {"target": TARGET, "criterion": row.criterion},
        "recover": {"steps": row.steps, "batch_size": BATCH, "learning_rate": RATE, "seed": row.seed, **MIXES[row.mix]},
    }
    base = pruned(row.criterion, place)
    if not folder.exists():
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("recipe.yaml", "model"))
    job = start_job(folder, recipe.make(values, row.name), progress=printed(row.name))
    stages.prune(job)
    resumed = (folder / "recover").exists()
    cpu = time.process_time()
    stages.recover(job)
    cpu_s = None if resumed else (time.process_time() - cpu) / row.steps
    real = place.real(place.reference.subset(range(row.images)))
    return {
        **row.__dict__,
        "batch_size": BATCH,
        "learning_rate": RATE,
        **MIXES[row.mix],
        "cpu_s_per_step": cpu_s,
        "wall_s": job.run.require("recover", "")["seconds"],
        "held_out": held_out(job.compressed, place),
        "frechet_distance": frechet_distance(place.features(job.compressed, row.images), real),
        "machine": machine("cpu"),
        "versions": versions(),
    }


def pruned(criterion: str, place: Place) -> Path:
    """The pruned run of a criterion, which every training of it starts from."""
    folder = place.folder / f"pruned-{criterion}"
    values = {"device": "cpu", "prune": {"target": TARGET, "criterion": criterion}, "recover": None}
    job = start_job(folder, recipe.make(values, criterion), progress=printed("pruning"))
    stages.prune(job)
    return folder


def held_out(model: ModelFolder, place: Place, count: int = 2000) -> dict[str, float]:
    """Mean squared errors on reference images, one timestep and noise each: to the target, and to the dense model."""
    scheduler = load_scheduler(model)
    nets = [load_denoiser(folder) for folder in (model, find_model(None))]
    total = timesteps_and_kind(scheduler)[0]
    sums = np.zeros(2)
    for start in range(0, count, 100):
        numbers = range(start, start + 100)
        clean = torch.from_numpy(place.reference.read(numbers))
        noise = torch.from_numpy(np.stack([normal("held out", 0, n, shape=tuple(clean.shape[1:])) for n in numbers]))
        t = torch.tensor([int(generator("held out timestep", 0, n).integers(total)) for n in numbers])
        x = noisy(scheduler, clean, noise, t)
        with torch.inference_mode():
            got, dense = (net(x, t).sample for net in nets)
        sums += [float((got - wanted).square().sum()) for wanted in (target(scheduler, clean, noise, t), dense)]
    elements = count * clean[0].numel()
    return {"to_target": float(sums[0] / elements), "to_dense": float(sums[1] / elements)}


def printed(name: str) -> Any:
    last = {"at": 0.0}

    def progress(work: str, done: int, total: int) -> None:
        if time.monotonic() - last["at"] > 30 or done == total:
            last["at"] = time.monotonic()
            print(f"{name}: {work} {done}/{total}", flush=True)

    return progress


def meant(options: str, name: str) -> bool:
    return name == options or (options.endswith("/") and name.startswith(options))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="*", default=["choice/", "equal-time/", "figure/", "criterion/"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    place = open_place(options.runs)
    found = read_json(RESULTS) if RESULTS.exists() else {"references": {}, "rows": {}}
    for row in rows():
        if row.name in found["rows"] or not any(meant(name, row.name) for name in options.rows):
            continue
        if str(row.images) not in found["references"]:
            found["references"][str(row.images)] = references(place, row.images)
        got = found["rows"][row.name] = measure(row, place)
        write_json(RESULTS, found)
        print(row.name, got["held_out"], got["frechet_distance"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
