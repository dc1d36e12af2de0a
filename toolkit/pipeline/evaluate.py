"""The evaluate stage: paired samples of both models, compared with each other and with real images."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.core import processes
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, replacing, write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.images import Images
from toolkit.diffusion.few_steps import taught_steps
from toolkit.diffusion.guidance import check_guidance
from toolkit.evaluation import similarity
from toolkit.evaluation.artefact import Artefact
from toolkit.evaluation.controls import check_steps, fewer_steps
from toolkit.evaluation.features import Extractor, open_extractor
from toolkit.evaluation.grid import grid
from toolkit.evaluation.judging import Judged, Resources, Subjects, judge, sampling_settings
from toolkit.evaluation.metrics import artefact_metrics, pair_metrics, real_metrics
from toolkit.evaluation.neighbours import nearest_training_images
from toolkit.evaluation.prediction_error import prediction_errors
from toolkit.evaluation.samples import own_plan
from toolkit.evaluation.settings import EvaluateSettings
from toolkit.evaluation.sharing import join, of_main, share_sampling
from toolkit.models.autoencoder import image_shape
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.pruning.latency import at_hand, time_of_call
from toolkit.pruning.settings import LatencySettings
from toolkit.report.pareto import PICTURE, draw, points

COLUMNS = 16  # pairs in the picture


def evaluate(
    run: RunFolder,
    settings: EvaluateSettings,
    dense: ModelFolder,
    compressed: ModelFolder,
    reference: Images,
    *,
    train: Images | None = None,
    extractor: Extractor | None = None,
    artefacts: Sequence[Artefact] = (),
    latency: LatencySettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    shared: Path | None = None,
) -> dict[str, Any]:
    """Judge ``compressed`` by ``dense`` and both by ``reference``; write RUN/evaluate and return its metrics.json.

    ``reference`` must hold no image that was trained on. ``train`` holds those that recovery trained on: samples are
    compared with them, and the floor is taken from them if the reference is too small. ``extractor`` takes the place
    of the one the settings name. ``artefacts`` of the compressed model are judged as well. ``latency`` says how the
    models' calls are timed for ``settings.controls``. Finished samples and features are kept in RUN/cache; the dense
    model's samples, and features, in ``shared`` if that is given.
    Raises DtkError for too few reference images or models that do not match, MissingToolError without the extra
    ``metrics``. Under a launcher every process makes its share of the samples; the main one judges them and writes, the
    others return nothing.
    """
    reference.require(settings.images, "evaluation (reference images, which were not trained on)")
    _check_match(dense, compressed, reference)
    check_guidance(find_conditioning(dense), settings.guidance)
    similarity.check_installed()
    subjects = Subjects(dense, compressed, reference, train, extractor or open_extractor(settings.features, device))
    timing = at_hand(latency or LatencySettings(), device) if settings.controls else None
    timed = {"timed": timing.model_dump(mode="json", include={"runner", "batch", "dtype"})} if timing else {}
    request = Request("evaluate", settings.model_dump(exclude={"batch_size"}) | timed, subjects.hashes())
    place = Resources(run.path / "cache", device, progress, shared)
    if run.is_current(request):
        return _with_artefacts(run, request, subjects, settings, place, artefacts)
    call_time, state = None, join(device) if processes.count() > 1 else None
    if timing:
        check_steps(subjects)
        call_time = time_of_call(dense, compressed, timing, device, progress) if processes.is_main() else None
    if state is not None:
        call_time = of_main(call_time)
        share_sampling(subjects, settings, place, state, call_time["fraction"] if call_time else None)
        if not processes.is_main():
            return {}
    with run.writing(request, device=device, facts={"processes": processes.count()}) as folder:
        judged = judge(subjects, settings, place)
        metrics = _metrics(subjects, settings, judged, place)
        if call_time:
            metrics["controls"] = fewer_steps(subjects, settings, judged, place, call_time)
            metric = metrics["frechet_distance"]["dense"]["metric"]
            draw(points("compressed", metrics["controls"]), metric, folder / PICTURE)
        _draw_pairs(folder / "pairs.png", reference, judged)
        if train is not None:
            record, rows = nearest_training_images(judged.samples["compressed"], reference, train)
            metrics["nearest_training_images"] = record
            grid(rows).save(folder / "nearest.png")
        write_json(folder / "metrics.json", metrics)
    return _with_artefacts(run, request, subjects, settings, place, artefacts)


def _with_artefacts(
    run: RunFolder,
    request: Request,
    subjects: Subjects,
    settings: EvaluateSettings,
    place: Resources,
    artefacts: Sequence[Artefact],
) -> dict[str, Any]:
    """The stage's metrics; figures of artefacts that it does not hold yet are added, the others stay as they are."""
    metrics: dict[str, Any] = read_json(run.path / "evaluate" / "metrics.json")
    judged = metrics.get("artefacts", {})
    new = [artefact for artefact in artefacts if judged.get(artefact.name, {}).get("sha256", "") != artefact.sha256]
    if not new or not processes.is_main():
        return metrics
    started, record = time.monotonic(), run.require("evaluate", f"dtk evaluate {run.path}")
    for artefact in new:
        judged[artefact.name] = artefact_metrics(artefact, subjects, settings, place, metrics)
    metrics["artefacts"] = judged
    with replacing(run.path / "evaluate") as folder:
        shutil.copytree(run.path / "evaluate", folder)
        write_json(folder / "metrics.json", metrics)
    seconds = record["seconds"] + time.monotonic() - started
    run.finish(request, ("evaluate",), seconds=seconds, device=place.device, facts={"processes": record["processes"]})
    return metrics


def _check_match(dense: ModelFolder, compressed: ModelFolder, reference: Images) -> None:
    shapes = {key: (dense.config.get(key), compressed.config.get(key)) for key in ("in_channels", "sample_size")}
    if any(one != other for one, other in shapes.values()):
        raise DtkError(
            "The dense and the compressed model make images of different shapes, so they cannot be paired.",
            found="; ".join(f"{key} {one} and {other}" for key, (one, other) in shapes.items()),
            expected="a model and what was made of it",
        )
    channels = image_shape(dense)[0]
    if channels != reference.shape[0]:
        raise DtkError(
            "The reference images do not have the model's number of channels.",
            found=f"{reference.shape[0]} channels",
            expected=f"{channels}",
        )


def _metrics(subjects: Subjects, settings: EvaluateSettings, judged: Judged, place: Resources) -> dict[str, Any]:
    reference = subjects.reference
    metrics: dict[str, Any] = {
        "settings": settings.model_dump(exclude={"batch_size"}),
        "conditions": subjects.conditions(settings.seed).origin,
        "reference": {
            "source": reference.source,
            "images": len(reference),
            "preparation": reference.preparation,
            "skipped": list(reference.skipped),
        },
        "pairs": pair_metrics(judged.samples["dense"], judged.samples["compressed"]),
        **real_metrics(judged),
        "compressed_steps": own_plan(subjects.compressed, sampling_settings(settings)).steps,
    }
    if not taught_steps(load_scheduler(subjects.compressed)):  # else it predicts where to land, not what was added
        metrics["prediction_errors"] = prediction_errors(
            subjects.dense,
            subjects.compressed,
            reference,
            settings.seed,
            device=place.device,
            progress=place.progress,
        )
    return metrics


def _draw_pairs(path: Path, reference: Images, judged: Judged) -> None:
    rows = {label: images[:COLUMNS] for label, images in judged.samples.items()}
    real = reference.read_uint8(range(min(COLUMNS, judged.conditions.count)))
    grid(rows | {"real": real}).save(path)
