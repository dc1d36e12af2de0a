"""Several targets in one go: a run folder each, and what they say together."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.environment import resolve_device
from toolkit.core.errors import UnreachableError, UsageError
from toolkit.core.files import read_json, write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_lock import held
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import find_model, full_config, load_denoiser
from toolkit.pipeline import stages
from toolkit.pipeline.job import start_job
from toolkit.pipeline.options import given, latency_settings
from toolkit.pipeline.recipe import Recipe, make
from toolkit.pruning.latency import latencies
from toolkit.pruning.targets import parse_target
from toolkit.report.pareto import Point, dominated, draw

if TYPE_CHECKING:
    from toolkit.report.pareto import Point


logger = logging.getLogger(__name__)
SCHEMA_VERSION = 1
SWEEP, PICTURE = "sweep.json", "pareto.svg"


def recipes(
    base: Recipe,
    targets: Sequence[str],
    judging: dict[str, Any],
    measuring: dict[str, Any],
    taught_steps: Sequence[int] = (),
) -> dict[str, Recipe]:
    """A recipe per target, by the name of its run folder; each evaluates with the control of fewer dense steps.

    And one more per target and number of ``taught_steps``, whose model is taught to sample in so few.

    ``judging`` are settings of the evaluation, ``measuring`` of the latency, None if the default stands. Raises
    UsageError for no target, or the same one twice.
    """
    names = [_folder_name(target) for target in targets]
    if not names or len(set(names)) < len(names):
        raise UsageError("A sweep takes several targets.", found="; ".join(targets), expected="each once")
    for target in targets:
        parse_target(target)
    prune = base.prune.model_dump(mode="json") | {"latency": latency_settings(measuring)}
    plain = base.model_dump(mode="json") | {"evaluate": {**given(judging), "controls": True}}
    if taught_steps and plain["recover"] is None:
        raise UsageError("Steps are taught in recovery, which this sweep leaves out.", found=f"{list(taught_steps)}")
    recipes = {}
    for name, target in zip(names, targets, strict=True):
        of_target = plain | {"prune": prune | {"target": target}}
        recipes[name] = make(of_target, "The command line")
        for steps in taught_steps:
            taught = {"recover": plain["recover"] | {"sampling_steps": steps}}
            recipes[f"{name}-{steps}-steps"] = make(of_target | taught, "The command line")
    return recipes


def _folder_name(target: str) -> str:
    return re.sub(r"[^\w.]+", "-", target.replace(" ", "").replace("<=", "-at-most-"))


def sweep(
    folder: Path, requested: dict[str, Recipe], *, overwrite: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Run every recipe in a folder of its own below ``folder``; measure what came of them, each interleaved with dense.

    Writes sweep.json, which is returned, and pareto.svg. Finished runs and measurements are taken as they are. A target
    that cannot be reached is logged and left out; if none can be, its error is raised.
    """
    reports: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for name, one in requested.items():
        try:
            with held(folder / name, make=True):
                job = start_job(folder / name, one, overwrite=overwrite, progress=progress)
                reports[name] = stages.run_all(job)
        except UnreachableError as error:
            if len(refused) == len(requested) - 1:
                raise
            refused[name] = str(error)
            logger.warning("%s is left out. %s", name, error)
    timings = _timings(folder, {name: requested[name] for name in reports}, progress)
    placed = _points(reports, timings)

    metric = next(iter(reports.values()))["stages"]["evaluate"]["frechet_distance"]["dense"]["metric"]
    draw(placed, metric, folder / PICTURE)
    points = [asdict(point) | {"dominated_by": by} for point, by in zip(placed, dominated(placed), strict=True)]
    value = {
        "schema_version": SCHEMA_VERSION,
        "metric": metric,
        "machine": next(iter(reports.values()))["machine"],
        "latency": next(iter(requested.values())).prune.latency.model_dump(mode="json"),
        "points": points,
        "runs": {name: _run(report, timings[name]) for name, report in reports.items()},
        "refused": refused,
    }
    write_json(folder / SWEEP, value)
    return value


def _timings(folder: Path, requested: dict[str, Recipe], progress: Progress) -> dict[str, dict[str, Any]]:
    """The latency of every run's model over the dense one's; one that was measured before is not measured again."""
    first = next(iter(requested.values()))
    earlier = read_json(folder / SWEEP)["runs"] if (folder / SWEEP).is_file() else {}
    measured: dict[str, dict[str, Any]] = {}
    dense, device = find_model(first.model), resolve_device(first.device)
    specs, settings = denoiser_inputs(dense), first.prune.latency
    with latencies(dense.class_name, full_config(dense), specs, settings, device, progress) as table:
        progress("latency", 0, len(requested))
        for done, name in enumerate(requested, start=1):
            model = find_model(folder / name / "model")
            known = earlier.get(name, {}).get("timing", {})
            if known.get("model_sha256") != model.sha256:
                known = asdict(table.check(load_denoiser(model))) | {"model_sha256": model.sha256}
            measured[name] = known
            progress("latency", done, len(requested))
    return measured


def _points(reports: dict[str, dict[str, Any]], timings: dict[str, dict[str, Any]]) -> list[Point]:
    """Every model in all steps, and the dense one in as few as the compressed ones cost."""

    dense: dict[int, Point] = {}
    compressed = []
    for name, report in reports.items():
        judged, timing = report["stages"]["evaluate"], timings[name]
        full = judged["settings"]["sampling_steps"]
        for control in judged["controls"]["curves"]["dense"]:
            steps, cost = control["steps"], control["steps"] / full
            label = f"dense, {steps} steps"
            dense[steps] = Point(label, "dense", steps, cost, control["frechet_distance"], cost, cost)
        distance = judged["frechet_distance"]["compressed"]["value"]
        steps = report["stages"].get("recover", {}).get("teaching", {}).get("sampling_steps", full)
        cost, low, high = (timing[bound] * steps / full for bound in ("fraction", "low", "high"))
        compressed.append(Point(name, "compressed", steps, cost, distance, low, high))
    return [*compressed, *(dense[steps] for steps in sorted(dense, reverse=True))]


def _run(report: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    plan = report["stages"]["prune"]
    return {"achieved": plan["achieved"], "widths": plan["widths"], "retained": plan["retained"], "timing": timing}
