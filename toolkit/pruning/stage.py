"""The prune stage: score, plan, slice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from diffusers import ModelMixin

from toolkit import models
from toolkit.conditioner import open_conditioner
from toolkit.data.examples import Examples
from toolkit.errors import DtkError
from toolkit.objective import timesteps_and_kind
from toolkit.progress import Progress, silent
from toolkit.pruning import calibration, catalog, depth, scorings, surgery
from toolkit.pruning import facts as facts_of
from toolkit.pruning.adapters.base import Limits
from toolkit.pruning.choice import Choice, choose
from toolkit.pruning.config import PruneSettings
from toolkit.pruning.cost import Count
from toolkit.pruning.criteria.base import Criterion, Task
from toolkit.pruning.engine import Engine
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.measured import Latencies, latency_cost, latency_facts
from toolkit.pruning.plan import Plan, read_plan
from toolkit.pruning.reconstruct import reconstruct
from toolkit.pruning.scores_file import Scorings, write_scores
from toolkit.pruning.scoring import held_out_loss
from toolkit.pruning.solver import meet, solve
from toolkit.pruning.space import Values
from toolkit.pruning.targets import parse_target
from toolkit.run_folder import Request, Run

FITTED_AT = 8  # timesteps at which layers are reconstructed, spread evenly over 0..T-1


def engine_for(dense: models.ModelFolder, settings: PruneSettings) -> Engine:
    """The engine of a dense model under the settings; refuses what cannot be pruned."""
    if "quantization_config" in dense.config:
        raise DtkError(f"{dense.root} is quantised.", expected="float weights", do="prune first, quantise afterwards")
    limits = Limits(align=settings.align, groups=settings.groups, least=settings.min_width, blocks=settings.blocks)
    return Engine(dense.class_name, models.full_config(dense), limits)


def plan_by_width(
    dense: models.ModelFolder,
    settings: PruneSettings,
    count: Count,
    *,
    latencies: Latencies | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """What a target leads to when no scores are at hand: needs a config alone, loads no weights.

    A target in latency is measured with ``latencies``.
    """
    engine, target = engine_for(dense, settings), parse_target(settings.target)
    catalog.criterion(settings.criterion)
    latency = latency_cost(engine, target, latencies, progress)
    values = solve(engine.space, target, count, latency=latency).uniform
    found = {"latency": latency_facts(latency, values, target, settings)} if latency else {}
    return {**facts_of.figures(engine, settings, values, count), "chosen_by": "width (no scores are cached)", **found}


def prune(
    run: Run,
    settings: PruneSettings,
    dense: models.ModelFolder,
    train: Examples | None,
    count: Count,
    *,
    latencies: Latencies | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write RUN/prune: scores.safetensors, plan.json and model/, the pruned and not yet recovered model.

    ``train`` may be None for a criterion that reads no images; of the configurations that meet the target the most
    even one then stands, as nothing shows that another is better. ``latencies`` measures what a target in latency wants
    measured; the pruned model is measured again at the end.
    """
    criterion = catalog.criterion(settings.criterion)
    target = parse_target(settings.target)
    inputs = {"model": dense.sha256} | ({"images": train.fingerprint} if train is not None else {})
    request = Request("prune", settings.model_dump(), inputs)
    if run.is_current(request):
        return dict(read_plan(run.path / "prune" / "plan.json").facts)
    engine = engine_for(dense, settings)
    latency = latency_cost(engine, target, latencies, progress)
    meeting = meet(engine.space, target, count, latency=latency)  # an unreachable target is told before the scoring
    model = _load(dense, device)
    scored_on, held_out = _calibration(settings, dense, train, device)
    size = settings.calibration_batch_size
    loss = None if held_out is None else partial(held_out_loss, calibration=held_out, batch_size=size)
    thresholds, effort = scorings.thresholds(settings), scorings.effort(settings)
    task = Task(model, engine.layout, scored_on, thresholds, settings.norm_term, settings.seed, progress, effort)
    with run.writing(request, device=device) as folder:
        engine, removed = depth.ordered(engine, meeting, model, scored_on, progress, batch_size=size)
        found, key = scorings.find_or_score(run, settings, inputs, criterion, task)
        timesteps = timesteps_and_kind(models.load_scheduler(dense))[0]
        choice = _choose(engine, settings, count, found, model, loss, criterion, timesteps, latency)
        fit = None
        narrower = bool(engine.layout.groups) and choice.values != engine.space.dense_values
        fits = settings.reconstruct and narrower and not criterion.fresh_weights
        if fits and scored_on is not None and loss is not None:
            choice, fit = _reconstructed(engine, settings, choice, model, scored_on, loss, progress)
        facts = facts_of.figures(engine, settings, choice.values, count) | {
            **facts_of.record(choice, None if loss is None else loss(model)),
            "reconstruction": fit,
            "stability": facts_of.stability(engine, choice),
            "removals": [asdict(removal) for removal in removed],
            "calibration": None if train is None else facts_of.calibration_record(train, settings),
        }
        if latency and latencies:
            measured_again = latencies.check(choice.model)
            facts["latency"] = latency_facts(latency, choice.values, target, settings, measured_again)
        write_scores(folder / "scores.safetensors", found, key)
        config = engine.space.configure(choice.values)
        plan = Plan(facts, dense.class_name, config, engine.layout, choice.kept, engine.blocks(config))
        plan.write(folder / "plan.json")
        models.save(dense, choice.model, folder / "model")
    return facts


def _calibration(
    settings: PruneSettings, dense: models.ModelFolder, train: Examples | None, device: str
) -> tuple[calibration.Calibration | None, calibration.Calibration | None]:
    """What is scored on, and what is held out from it."""
    if train is None:
        return None, None
    scheduler, conditioner = models.load_scheduler(dense), open_conditioner(dense, device)
    images, seed, draws = settings.calibration_images, settings.seed, settings.noise_draws
    return calibration.draw(train, images, seed, scheduler, conditioner, device, draws)


def _load(dense: models.ModelFolder, device: str) -> ModelMixin:
    model = models.load_denoiser(dense)
    surgery.refuse_tied(model)
    return model.to(device)


def _choose(
    engine: Engine,
    settings: PruneSettings,
    count: Count,
    scorings: Scorings,
    model: ModelMixin,
    loss: Callable[[ModelMixin], float] | None,
    criterion: Criterion,
    timesteps: int,
    latency: LatencyCost | None,
) -> Choice:
    device = str(model.device)

    def build(values: Values, kept: Mapping[str, Any]) -> tuple[ModelMixin, float]:
        config = engine.space.configure(values)
        if criterion.fresh_weights:
            return surgery.fresh(engine.class_name, config, settings.seed).to(device), 0.0
        pruned, error = surgery.prune(model, config, engine.layout, kept, timesteps, engine.rename(config))
        return pruned.to(device), error

    by_scores = not criterion.fresh_weights  # the scores and the one-shot loss of fresh weights are chance
    target = parse_target(settings.target)
    return choose(engine, target, count, scorings, build, loss, by_scores=by_scores, latency=latency)


def _reconstructed(
    engine: Engine,
    settings: PruneSettings,
    choice: Choice,
    dense: ModelMixin,
    fitted_on: calibration.Calibration,
    held_out_loss: Callable[[ModelMixin], float],
    progress: Progress,
) -> tuple[Choice, dict[str, Any]]:
    """The choice with its layers fitted to the dense model's outputs, where that helps on held-out images.

    Too few images for a layer's many inputs fit themselves alone; the sliced weights then stay.
    """
    steps = timesteps_and_kind(fitted_on.scheduler)[0]
    at = sorted({int(steps * (i + 0.5) / FITTED_AT) for i in range(FITTED_AT)})
    rename, size = engine.rename(engine.space.configure(choice.values)), settings.calibration_batch_size
    model, layout, kept = copy.deepcopy(choice.model), engine.layout, choice.kept
    reconstruct(dense, model, layout, kept, fitted_on, at, rename=rename, batch_size=size, progress=progress)
    loss = held_out_loss(model)
    better = choice.one_shot_loss is not None and loss < choice.one_shot_loss
    facts = {"timesteps": at, "held_out_loss": loss, "taken": better}
    return replace(choice, model=model) if better else choice, facts
