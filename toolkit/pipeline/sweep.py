"""Several targets in one go: a run folder each, and what they say together."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.core.errors import UnreachableError, UsageError
from toolkit.core.files import write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_lock import held
from toolkit.pipeline import stages
from toolkit.pipeline.job import start_job
from toolkit.pipeline.options import given, latency_settings
from toolkit.pipeline.recipe import Recipe, make
from toolkit.pruning.targets import parse_target
from toolkit.report.pareto import PICTURE, Point, dominated, draw, points

logger = logging.getLogger(__name__)
SCHEMA_VERSION = 2
SWEEP = "sweep.json"


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
    """Run every recipe in a folder of its own below ``folder``, and set their evaluations' controls side by side.

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
    placed, first = _points(reports), next(iter(reports.values()))
    judged = first["stages"]["evaluate"]
    metric, time = judged["frechet_distance"]["dense"]["metric"], judged["controls"]["time"]
    draw(placed, metric, folder / PICTURE)
    value = {
        "schema_version": SCHEMA_VERSION,
        "metric": metric,
        "machine": first["machine"],
        "latency": {name: time[name] for name in ("runner", "batch", "dtype")},
        "points": [
            {"name": point.name, **asdict(point), "dominated_by": by}
            for point, by in zip(placed, dominated(placed), strict=True)
        ],
        "runs": {name: _run(report) for name, report in reports.items()},
        "refused": refused,
    }
    write_json(folder / SWEEP, value)
    return value


def _points(reports: dict[str, dict[str, Any]]) -> list[Point]:
    """Every model in all and in fewer steps; runs that have a number of the dense model's steps in common share it."""
    judged = {name: report["stages"]["evaluate"]["controls"] for name, report in reports.items()}
    placed = {point for name, controls in judged.items() for point in points(name, controls)}
    return sorted(placed, key=lambda point: (point.kind, point.model, point.speed))


def _run(report: dict[str, Any]) -> dict[str, Any]:
    plan, timing = report["stages"]["prune"], report["stages"]["evaluate"]["controls"]["time"]
    return {"achieved": plan["achieved"], "widths": plan["widths"], "retained": plan["retained"], "timing": timing}
