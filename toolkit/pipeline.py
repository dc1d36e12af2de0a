"""Stage after stage over one run folder; a stage whose inputs have not changed is skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit import models, results
from toolkit.errors import DtkError
from toolkit.files import write_json
from toolkit.first_stage import image_shape
from toolkit.job import Job, count, dry_run, measured, start, take_up
from toolkit.run_folder import Run
from toolkit.run_lock import held

if TYPE_CHECKING:
    from profiles.config import ProfileSettings

__all__ = ["Job", "dry_run", "held", "start", "take_up"]


def prune(job: Job) -> dict[str, Any]:
    """The prune stage; without recovery its model is the result."""
    from toolkit.pruning.stage import prune as stage
    from toolkit.recovery.prepare import check

    if job.recipe.recover is not None:
        check(job.recipe.recover, job.examples)
    with measured(job.recipe, job.dense, job.progress) as found:
        facts = stage(
            job.run,
            job.recipe.prune,
            job.dense,
            job.examples if job.reads_images else None,
            count(job.dense, job.recipe.prune.tokens),
            latencies=found,
            device=job.device,
            progress=job.progress,
        )
    if "latency" in facts and facts["latency"]["missed"]:
        job.notice(facts["latency"]["missed"])
    if job.recipe.recover is None:
        job.run.publish_model(job.run.path / "prune" / "model")
    return facts


def recover(job: Job) -> dict[str, Any]:
    """The recover stage."""
    from toolkit.recovery.stage import recover as stage

    if job.recipe.recover is None:
        raise DtkError("This recipe has no recovery.", do="dtk recover RUN --steps N")
    job.run.require("prune", f"dtk compress -o {job.run.path}")
    return stage(
        job.run,
        job.recipe.recover,
        job.dense,
        job.examples,
        device=job.device,
        progress=job.progress,
        notice=job.notice,
    )


def evaluate(job: Job) -> dict[str, Any]:
    """The evaluate stage."""
    from toolkit.evaluation.config import EvaluateSettings
    from toolkit.evaluation.stage import evaluate as stage

    settings = job.recipe.evaluate or EvaluateSettings()
    train, reference = job.images
    return stage(
        job.run,
        settings,
        job.dense,
        job.compressed,
        reference,
        train=train,
        device=job.device,
        progress=job.progress,
    )


def export(job: Job) -> dict[str, Any]:
    """The export stage."""
    from exporters.config import ExportSettings
    from exporters.stage import export as stage

    return stage(job.run, job.recipe.export or ExportSettings(), job.dense, job.compressed, progress=job.progress)


def profile(job: Job) -> dict[str, Any]:
    """The profile stage."""
    from profiles.stage import profile as stage

    return stage(job.run, _profile_settings(job), job.dense, job.compressed, progress=job.progress)


def _profile_settings(job: Job) -> ProfileSettings:
    """The recipe's, with the run's own device where they name none."""
    from profiles.config import ProfileSettings

    settings = job.recipe.profile or ProfileSettings()
    return settings.model_copy(update={"device": job.device}) if settings.device == "auto" else settings


def profile_against(job: Job, source: str) -> dict[str, Any]:
    """The run's result measured against any stock model in the dense one's place; kept in RUN/against, not reported."""
    from exporters.config import ExportSettings
    from exporters.stage import export as export_stage
    from profiles.stage import profile as profile_stage
    from toolkit.runners.registry import runner_reads

    other, settings = models.find(source), _profile_settings(job)
    if image_shape(other) != image_shape(job.dense):
        shapes = f"{image_shape(other)} and {image_shape(job.dense)}"
        raise DtkError(f"{source} makes images of another shape.", found=shapes, expected="equal (C, H, W)")
    run = Run.create(job.run.path / "against" / other.sha256[:12])
    reads = {runner_reads(name) for name in settings.runners}
    if reads - {"model"}:
        exporting = (job.recipe.export or ExportSettings()).model_copy(update={"trt": "engine" in reads})
        export_stage(run, exporting, other, job.compressed, progress=job.progress)
    return {"against": source} | profile_stage(run, settings, other, job.compressed, progress=job.progress)


def import_checkpoint(
    source: Path, target: Path, *, weights: Literal["ema", "plain"], size: int | None
) -> dict[str, Any]:
    """A diffusers folder from a checkpoint of another code base."""
    from toolkit.importing.convert import convert

    return convert(source, target, weights=weights, size=size)


def compare(paths: list[Path], *, across_machines: bool) -> dict[str, Any]:
    """The profiles of several runs side by side."""
    from profiles.runs import compare_runs

    return compare_runs([Run.open(path) for path in paths], across_machines=across_machines)


def compare_evaluations(paths: list[Path]) -> dict[str, Any]:
    """The evaluations of several runs side by side."""
    from toolkit.evaluation.runs import compare_evaluations as compared

    return compared([Run.open(path) for path in paths])


def handoff(job: Job) -> dict[str, Any]:
    """The handoff stage."""
    from toolkit.handoff.config import HandoffSettings
    from toolkit.handoff.stage import handoff as stage

    return stage(job.run, job.recipe.handoff or HandoffSettings(), progress=job.progress)


def serve(path: Path, ready: Callable[[Any], None], **settings: Any) -> int:
    """Serve a run's handoff until the process is told to stop; returns the server's exit code."""
    from toolkit.handoff.config import ServeSettings
    from toolkit.handoff.server import serve as server

    given = {key: value for key, value in settings.items() if value is not None}
    return server(Run.open(path), ServeSettings(**given), ready=ready)


VERBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "prune": prune,
    "recover": recover,
    "evaluate": evaluate,
    "export": export,
    "profile": profile,
    "handoff": handoff,
}


def run_all(job: Job) -> dict[str, Any]:
    """Every stage the recipe has, then the report."""
    for stage, verb in VERBS.items():
        if getattr(job.recipe, stage) is not None:
            verb(job)
    return report(job)


def report(job: Job) -> dict[str, Any]:
    """Write RUN/report.json, what each finished stage found, and RUN/report.html, which shows it; returns the value."""
    from profiles.report.page import write
    from profiles.report.verdict import sentence

    found = results.read(job.run)
    value = {
        "model": job.recipe.model or "the embedded default",
        "data": job.recipe.data.source or "the embedded default",
        "verdict": sentence(found["stages"]),
        "dense_missing": _is_gone(job.recipe.model),
        "stale": stale(job),
        **found,
    }
    write_json(job.run.path / "report.json", value)
    write(job.run.path, value)
    return value


def stale(job: Job) -> list[str]:
    """The finished stages whose figures are of an earlier model than the run holds now."""
    return results.stale(job.run, job.compressed.sha256) if (job.run.path / "model").is_dir() else []


def _is_gone(model: str | None) -> bool:
    """Whether a model was named by a path where nothing lies any more; a hub id is not looked for."""
    named = model is not None and (Path(model).is_absolute() or model.startswith("."))
    return bool(model and named and not Path(model).is_dir())
