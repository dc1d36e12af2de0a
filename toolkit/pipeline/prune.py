"""The prune stage: from the dense model's folder to RUN/prune."""

from __future__ import annotations

from functools import partial
from typing import Any

from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.examples import Examples
from toolkit.models.build import full_config, load_denoiser, refuse_quantised
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.save import save_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pruning.calibration import draw
from toolkit.pruning.cost import Count, counter
from toolkit.pruning.latency import Latencies
from toolkit.pruning.plan import read_plan
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.prune import plan_by_width, prunable_for
from toolkit.pruning.prune import prune as prune_model
from toolkit.pruning.rounds import Earlier
from toolkit.pruning.scores import find_or_score, scores_key, write_scores
from toolkit.pruning.settings import PruneSettings


def dense_prunable(dense: ModelFolder, settings: PruneSettings) -> Prunable:
    """A dense model's configuration under the settings; refuses what cannot be pruned."""
    refuse_quantised(dense)
    return prunable_for(dense.class_name, full_config(dense), settings)


def count_for(dense: ModelFolder, tokens: int | None = None) -> Count:
    """What counts parameters and MACs of configurations of ``dense``; ``tokens`` None is what the folder says."""
    return counter(dense.class_name, full_config(dense), denoiser_inputs(dense, tokens))


def dry_run(
    dense: ModelFolder, settings: PruneSettings, *, latencies: Latencies | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """The plan by width only: reads no weights and no data, writes nothing into a run."""
    prunable, count = dense_prunable(dense, settings), count_for(dense, settings.tokens)
    return plan_by_width(prunable, settings, count, latencies=latencies, progress=progress)


def prune(
    run: RunFolder,
    settings: PruneSettings,
    dense: ModelFolder,
    train: Examples | None,
    *,
    earlier: RunFolder | None = None,
    latencies: Latencies | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write RUN/prune: scores.safetensors, plan.json and model/, the pruned and not yet recovered model.

    ``train`` may be None for a criterion that reads no images; ``earlier`` is the run of the round before, whose result
    is pruned further. See ``toolkit.pruning.prune.prune``.
    """
    source = find_model(earlier.path / "model") if earlier else dense
    inputs = {"model": source.sha256} | ({"images": train.fingerprint} if train is not None else {})
    request = Request("prune", settings.model_dump(), inputs)
    if run.is_current(request):
        return dict(read_plan(run.path / "prune" / "plan.json").facts)
    prunable = dense_prunable(dense, settings)
    scheduler, key = load_scheduler(dense), scores_key(settings, inputs)
    model = load_denoiser(source).to(device)
    conditioner = open_conditioner(dense, device)
    calibrations = None if train is None else draw(train, settings, scheduler, conditioner, device)
    # a run that was interrupted after the scoring has left its scores in the cache
    places = [run.path / "prune" / "scores.safetensors", run.path / "cache" / "scores.safetensors"]
    with run.writing(request, device=device) as folder:
        pruned = prune_model(
            model,
            scheduler,
            settings,
            count_for(dense, settings.tokens),
            calibrations,
            latencies=latencies,
            score=partial(find_or_score, key=key, places=places),
            earlier=Earlier(read_plan(earlier.path / "prune" / "plan.json"), prunable) if earlier else None,
            progress=progress,
        )
        write_scores(folder / "scores.safetensors", pruned.scores, key)
        pruned.plan.write(folder / "plan.json")
        save_model(dense, pruned.model, folder / "model")
    return dict(pruned.plan.facts)
