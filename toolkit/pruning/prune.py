"""A dense network in memory in, a narrower stock network and its plan out: score, choose, slice. Writes no file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from diffusers import ModelMixin

from toolkit.adapters.base import Constraints
from toolkit.adapters.space import Config, Values
from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress, silent
from toolkit.diffusion.objective import midpoints, timesteps_and_kind
from toolkit.models.build import plain_config
from toolkit.pruning import block_order, summary, surgery
from toolkit.pruning.calibration import Calibrations, held_out_loss
from toolkit.pruning.choice import Choice, choose
from toolkit.pruning.cost import Count
from toolkit.pruning.criteria.base import Criterion, Task, criterion_called
from toolkit.pruning.latency import Latencies, latency_cost, latency_facts
from toolkit.pruning.latency_cost import LatencyCost, stated_unit
from toolkit.pruning.layout import Kept, Layout
from toolkit.pruning.plan import Plan
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.reconstruct import reconstruct
from toolkit.pruning.rounds import Earlier
from toolkit.pruning.scores import Scorings, effort, thresholds
from toolkit.pruning.scoring import Scored
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.solver import meet, solve
from toolkit.pruning.targets import parse_target

FITTED_AT = 8  # timesteps at which layers are reconstructed
Score = Callable[[Criterion, Task], Scorings]
"""How scores are found: computed, or taken from an earlier run."""


@dataclass(frozen=True)
class Pruned:
    """The pruned network, the plan that made it, and the scores the plan was made of."""

    model: ModelMixin
    plan: Plan
    scores: Scorings


def prunable_for(class_name: str, config: Config, settings: PruneSettings) -> Prunable:
    """A configuration with the limits of the settings; refuses a class or variant that cannot be pruned."""
    limits = Constraints(
        settings.align, settings.groups, settings.min_width, blocks=settings.blocks, preset=settings.preset or ""
    )
    if settings.preset and class_name != "UNet2DConditionModel":
        raise UsageError(f"The preset {settings.preset} is of another model.", found=class_name)
    if settings.preset and settings.blocks:
        raise UsageError("--blocks would change nothing.", found=f"--preset {settings.preset}, which names the blocks")
    return Prunable(class_name, config, limits)


def plan_by_width(
    prunable: Prunable,
    settings: PruneSettings,
    count: Count,
    *,
    latencies: Latencies | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """What a target leads to without scores: needs only a configuration, reads no weights.

    A target in latency is measured with ``latencies``.
    """
    target = parse_target(settings.target)
    criterion_called(settings.criterion)
    latency = latency_cost(prunable, target, latencies, progress)
    values = solve(prunable.space, target, count, latency=latency).uniform
    latency_record = {"latency": latency_facts(latency, values, target, settings)} if latency else {}
    facts = summary.sizes(prunable, settings, values, count) | latency_record
    chosen_by = "width, without scores; those may choose other widths"
    return {**facts, "bounds": summary.of_bounds(target, facts), "chosen_by": chosen_by}


def prune(
    model: ModelMixin,
    scheduler: Any,
    settings: PruneSettings,
    count: Count,
    calibrations: Calibrations | None,
    *,
    latencies: Latencies | None = None,
    score: Score = lambda criterion, task: criterion.score(task),
    earlier: Earlier | None = None,
    progress: Progress = silent,
) -> Pruned:
    """The network of the configuration that meets the target with the channels that matter most.

    ``model`` is the dense network, float32 in eval mode, on the device to compute on; its weights stay as they are, its
    gradients are used and cleared. ``scheduler`` is the one it was trained with, None for what takes no timestep.
    ``calibrations`` may be None for a criterion that reads no images; of the configurations that meet the target the
    most even one is then taken, as nothing shows that another is better. ``latencies`` measures what a target in
    latency needs measured; the pruned network is measured again at the end. ``earlier``: the round that ``model`` is
    the recovered result of; targets and the plan are then of that round's dense model. Raises DtkError if no
    configuration meets the target.
    """
    prunable = earlier.further if earlier else prunable_for(type(model).__name__, plain_config(model.config), settings)
    criterion, target = criterion_called(settings.criterion), parse_target(settings.target)
    latency = latency_cost(prunable, target, latencies, progress)
    meeting = meet(
        prunable.space, target, count, latency=latency
    )  # an unreachable target is refused before the scoring
    surgery.refuse_tied(model)
    scored_on = calibrations.scored if calibrations else None
    batch_size = settings.calibration_batch_size
    loss = partial(held_out_loss, calibration=calibrations.held_out, batch_size=batch_size) if calibrations else None
    prunable, removed = block_order.ordered(prunable, meeting, model, scored_on, progress, batch_size=batch_size)
    task = Task(
        *(model, earlier.layout if earlier else prunable.layout, scored_on, thresholds(settings)),
        *(settings.norm_term, settings.seed),
        *(progress, effort(settings)),
    )
    nothing = dict.fromkeys(task.thresholds, Scored({}, {}))  # if only blocks go: those are not scored but tried
    scores = score(criterion, task) if prunable.layout.groups else nothing
    timesteps = timesteps_and_kind(scheduler)[0] if scheduler else 0
    slicer = Slicer(prunable, model, settings, criterion, timesteps, earlier)
    choice = slicer.choose(count, earlier.of_dense(scores) if earlier else scores, loss, latency)
    choice, fit = slicer.reconstructed(choice, scored_on, loss, progress)
    facts = summary.sizes(prunable, settings, choice.values, count) | {
        **summary.of_choice(choice, None if loss is None else loss(model)),
        "reconstruction": fit,
        "stability": summary.stability(prunable, choice),
        "removals": [asdict(removal) for removal in removed],
        "calibration": summary.of_calibration(calibrations, settings),
    }
    if latency and latencies:
        measured_again = latencies.check(choice.model)
        facts["latency"] = latency_facts(latency, choice.values, target, settings, measured_again)
    facts["bounds"] = summary.of_bounds(target, facts)
    config = prunable.space.configure(choice.values)
    blocks = prunable.blocks(config)
    plan = Plan(facts, prunable.class_name, config, prunable.layout, choice.kept, blocks)
    return Pruned(choice.model, plan, scores)


@dataclass(frozen=True)
class Slicer:
    """Makes the pruned network of any choice, from the dense one or from what an earlier round left of it."""

    prunable: Prunable
    dense: ModelMixin
    settings: PruneSettings
    criterion: Criterion
    timesteps: int  # the scheduler's T, 0 if there is none
    earlier: Earlier | None = None

    def places(self, kept: Kept) -> tuple[Layout, Kept]:
        """Where the kept channels lie in ``dense``."""
        return (self.earlier.layout, self.earlier.of_now(kept)) if self.earlier else (self.prunable.layout, kept)

    def build(self, values: Values, kept: Kept) -> tuple[ModelMixin, float]:
        """The pruned network, and the relative error of its time embedding."""
        config, device = self.prunable.space.configure(values), self.dense.device
        if self.criterion.fresh_weights:
            return surgery.fresh(self.prunable.class_name, config, self.settings.seed).to(device), 0.0
        rename = self.prunable.rename(config)
        pruned, error = surgery.slice_model(self.dense, config, *self.places(kept), self.timesteps, rename)
        return pruned.to(device), error

    def choose(
        self, count: Count, scores: Scorings, loss: Callable[[ModelMixin], float] | None, latency: LatencyCost | None
    ) -> Choice:
        """The best of the configurations that meet the target."""
        by_scores = not self.criterion.fresh_weights  # the scores and the one-shot loss of fresh weights are chance
        target = parse_target(self.settings.target)
        unit = stated_unit(self.settings.latency.runner, self.settings.latency.dtype)
        return choose(
            *(self.prunable, target, count, scores, self.build, loss), by_scores=by_scores, unit=unit, latency=latency
        )

    def reconstructed(
        self, choice: Choice, fitted_on: Any, held_out: Callable[[ModelMixin], float] | None, progress: Progress
    ) -> tuple[Choice, dict[str, Any] | None]:
        """The choice with its layers fitted to the dense network's outputs, if requested and if that helps.

        Whether it helps is decided on held-out images: with too few images the fit of many inputs does not generalise.
        """
        narrower = bool(self.prunable.layout.groups) and choice.values != self.prunable.space.dense_values
        wanted = self.settings.reconstruct and narrower and not self.criterion.fresh_weights
        if not wanted or fitted_on is None or held_out is None:
            return choice, None
        at = sorted(set(midpoints(fitted_on.steps, FITTED_AT)))
        rename = self.prunable.rename(self.prunable.space.configure(choice.values))
        model, size = copy.deepcopy(choice.model), self.settings.calibration_batch_size
        reconstruct(
            *(self.dense, model, *self.places(choice.kept), fitted_on, at),
            rename=rename,
            batch_size=size,
            progress=progress,
        )
        loss = held_out(model)
        better = choice.one_shot_loss is not None and loss < choice.one_shot_loss
        return replace(choice, model=model) if better else choice, {
            "timesteps": at,
            "held_out_loss": loss,
            "taken": better,
        }
