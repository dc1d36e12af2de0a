"""Stage after stage over one run folder; a stage whose inputs have not changed is skipped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from exporters.settings import ExportSettings
from profiles.settings import ProfileSettings
from toolkit.core.errors import DtkError
from toolkit.core.files import user_cache, write_json
from toolkit.core.run_folder import RunFolder
from toolkit.evaluation.features import open_extractor
from toolkit.evaluation.judging import Resources, Subjects
from toolkit.evaluation.settings import EvaluateSettings, VerifySettings
from toolkit.handoff.settings import HandoffSettings
from toolkit.models.autoencoder import image_shape
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import find_model
from toolkit.models.latents import Latents
from toolkit.pipeline import decoder as decoder_stage
from toolkit.pipeline import evaluate as evaluate_stage
from toolkit.pipeline import export as export_stage
from toolkit.pipeline import handoff as handoff_stage
from toolkit.pipeline import profile as profile_stage
from toolkit.pipeline import prune as prune_stage
from toolkit.pipeline import recover as recover_stage
from toolkit.pipeline import verify as verify_stage
from toolkit.pipeline.artefacts import deployed, export_of, find_artefact
from toolkit.pipeline.best import Goal, best, with_best
from toolkit.pipeline.decoder_settings import DecoderSettings
from toolkit.pipeline.job import Job, measured
from toolkit.pipeline.model import publish_model
from toolkit.pipeline.resume import resume
from toolkit.pipeline.rounds import earlier_round
from toolkit.recovery.prepare import check
from toolkit.report import results
from toolkit.report.headline import sentence
from toolkit.report.page import write
from toolkit.runners.base import parse_runner, runner_reads

logger = logging.getLogger(__name__)
SAMPLES = "evaluation"
"""In the user's cache: the dense model's samples, which runs of one model share, and features."""


def prune(job: Job) -> dict[str, Any]:
    """The prune stage; without recovery its model is the result."""
    if job.recipe.recover is not None:
        check(job.recipe.recover, job.examples)
    if job.recipe.resume_from is not None:
        return resume(job.run, job.dense, job.recipe.resume_from)
    with measured(job.recipe, job.dense, job.progress) as latencies:
        facts = prune_stage.prune(
            job.run,
            job.recipe.prune,
            job.dense,
            job.examples if job.reads_images else None,
            earlier=earlier_round(job, latencies),
            latencies=latencies,
            device=job.device,
            progress=job.progress,
        )
    if "latency" in facts and facts["latency"]["missed"]:
        logger.warning(facts["latency"]["missed"])
    if job.recipe.recover is None:
        _publish_pruned(job)
    return facts


def _publish_pruned(job: Job) -> None:
    publish_model(job.run, partial(shutil.copytree, job.run.path / "prune" / "model"))


def decoder(job: Job) -> dict[str, Any]:
    """The decoder stage; recovery publishes what it made, or this stage itself if there is none."""
    settings, latents, held_out = job.recipe.decoder or DecoderSettings(), job.examples, job.held_out
    decoder_stage.dry_run(job.dense, settings)  # refuses a model of pixels
    assert isinstance(latents, Latents) and isinstance(held_out, Latents)
    result = decoder_stage.compress_decoder(
        job.run, settings, job.dense, latents, held_out, device=job.device, progress=job.progress
    )
    if job.recipe.recover is None:
        _publish_pruned(job)
    return result


def recover(job: Job) -> dict[str, Any]:
    """The recover stage."""
    if job.recipe.recover is None:
        raise DtkError("This recipe has no recovery.", do="dtk recover RUN")
    job.run.require("prune", f"dtk compress -o {job.run.path}")
    return recover_stage.recover(
        job.run,
        job.recipe.recover,
        job.dense,
        job.examples,
        held_out=job.held_out,
        device=job.device,
        progress=job.progress,
    )


def evaluate(job: Job, artefacts: Sequence[str] = ()) -> dict[str, Any]:
    """The evaluate stage; ``artefacts`` are judged as well, such as openvino:bf16."""
    settings = job.recipe.evaluate or EvaluateSettings()
    exported = [find_artefact(job.run, job.compressed, text) for text in artefacts]
    train, reference = job.images
    return evaluate_stage.evaluate(
        job.run,
        settings,
        job.dense,
        job.compressed,
        reference,
        train=train,
        artefacts=exported,
        latency=job.recipe.prune.latency,
        device=job.device,
        progress=job.progress,
        shared=user_cache(SAMPLES),
    )


def export(job: Job) -> dict[str, Any]:
    """The export stage."""
    settings = job.recipe.export or ExportSettings()
    return export_stage.export(job.run, settings, job.dense, job.compressed, device=job.device, progress=job.progress)


def profile(job: Job) -> dict[str, Any]:
    """The profile stage."""
    return profile_stage.profile(job.run, _profile_settings(job), job.dense, job.compressed, progress=job.progress)


def verify(job: Job, artefact: str | None = None) -> dict[str, Any]:
    """The verify stage, of ``artefact`` or what the recipe names; it samples as the evaluation does."""
    settings, sampling = job.recipe.verify or VerifySettings(), job.recipe.evaluate or EvaluateSettings()
    tested = find_artefact(job.run, job.compressed, artefact or settings.artefact or deployed(job.run))
    extractor = open_extractor(sampling.features, job.device)
    subjects = Subjects(job.dense, job.compressed, job.images[1], None, extractor)
    place = Resources(job.run.path / "cache", job.device, job.progress, user_cache(SAMPLES))
    return verify_stage.verify(job.run, settings, sampling, tested, subjects, place)


def _profile_settings(job: Job) -> ProfileSettings:
    """The recipe's, with the run's own device if they name none."""
    settings = job.recipe.profile or ProfileSettings()
    return settings.model_copy(update={"device": job.device}) if settings.device == "auto" else settings


def choose_best(job: Job, measured: dict[str, Any], goal: Goal) -> tuple[Job, dict[str, Any]]:
    """The job whose recipe exports and hands off what suits ``goal`` best, and the profile with it as ``best``."""
    choice = best(job.run.path, measured, goal)
    recipe = with_best(job.recipe, job.run.path, choice, measured["device"])
    return replace(job, recipe=recipe), measured | {"best": choice}


def profile_against(job: Job, source: str) -> dict[str, Any]:
    """The run's result measured against any stock model in the dense one's place; kept in RUN/against, not reported."""
    other, settings = find_model(source), _profile_settings(job)
    if image_shape(other) != image_shape(job.dense):
        shapes = f"{image_shape(other)} and {image_shape(job.dense)}"
        raise DtkError(f"{source} makes images of another shape.", found=shapes, expected="equal (C, H, W)")
    inputs, own = (denoiser_inputs(model) for model in (other, job.compressed))
    if inputs != own:
        described = [", ".join(f"{name} {spec.shape}" for name, spec in specs.items()) for specs in (inputs, own)]
        raise DtkError(f"{source} takes other inputs than the run's models.", found=described[0], expected=described[1])
    run = RunFolder.create(job.run.path / "against" / other.sha256[:12])
    reads = {runner_reads(parse_runner(text).name) for text in settings.runners}
    if reads - {"model"}:
        exporting = (job.recipe.export or ExportSettings()).model_copy(update={"trt": "engine" in reads})
        export_stage.export(run, exporting, other, job.compressed, device=job.device, progress=job.progress)
    profiled = profile_stage.profile(run, settings, other, job.compressed, progress=job.progress)
    return {"against": source, "folder": str(run.path)} | profiled


def handoff(job: Job) -> dict[str, Any]:
    """The handoff stage. Raises DtkError if what was exported is of an earlier model than the run holds now."""
    export_of(job.run, {"compressed": job.compressed})
    return handoff_stage.handoff(job.run, job.recipe.handoff or HandoffSettings(), progress=job.progress)


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "prune": prune,
    "decoder": decoder,
    "recover": recover,
    "evaluate": evaluate,
    "export": export,
    "profile": profile,
    "verify": verify,
    "handoff": handoff,
}


def run_all(job: Job) -> dict[str, Any]:
    """Every stage the recipe has, then the report."""
    for stage, run_stage in STAGES.items():
        if getattr(job.recipe, stage) is not None:
            run_stage(job)
    return report(job)


def report(job: Job) -> dict[str, Any]:
    """Write RUN/report.json, what each finished stage found, and RUN/report.html, which shows it; returns the value."""
    results_read = results.read(job.run)
    value = {
        "model": job.recipe.model or "the embedded default",
        "data": job.recipe.data.source or "the embedded default",
        "verdict": sentence(results_read["stages"]),
        "dense_missing": _is_gone(job.recipe.model),
        "stale": stale(job),
        **results_read,
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
