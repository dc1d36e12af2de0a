"""The rounds before the last: each a run of its own in RUN/rounds/N, pruned a share of the way and recovered."""

from __future__ import annotations

from typing import Any

from toolkit.core.run_folder import RunFolder
from toolkit.pipeline import prune as prune_stage
from toolkit.pipeline import recover as recover_stage
from toolkit.pipeline.job import Job
from toolkit.pruning.latency import Latencies
from toolkit.pruning.plan import read_plan
from toolkit.pruning.prune import plan_by_width
from toolkit.pruning.rounds import Earlier


def earlier_round(job: Job, latencies: Latencies | None) -> RunFolder | None:
    """Prune and recover in every round but the last, always with the dense model as teacher; the last of these runs.

    None for a recipe of one round. A finished round is not repeated, an interrupted one resumes. Raises DtkError before
    a round is recovered from which the recipe's target can no longer be met.
    """
    recover, run = job.recipe.recover, None
    for number, target in enumerate(job.recipe.earlier_targets, start=1):
        assert recover is not None
        settings = job.recipe.prune.model_copy(update={"target": target})
        after, run = run, RunFolder.create(job.run.path / "rounds" / str(number))
        shared: dict[str, Any] = {"device": job.device, "progress": job.progress}
        prune_stage.prune(run, settings, job.dense, job.examples, earlier=after, latencies=latencies, **shared)
        _require_reachable(job, run, latencies)
        untaught = recover.model_copy(update={"sampling_steps": None})
        recover_stage.recover(run, untaught, job.dense, job.examples, held_out=job.held_out, **shared)
    return run


def _require_reachable(job: Job, run: RunFolder, latencies: Latencies | None) -> None:
    """Raise DtkError if no configuration within the pruned model of ``run`` meets the recipe's target."""
    settings = job.recipe.prune
    dense, plan = prune_stage.dense_prunable(job.dense, settings), read_plan(run.path / "prune" / "plan.json")
    count = prune_stage.count_for(job.dense, settings.tokens)
    plan_by_width(Earlier(plan, dense).further, settings, count, latencies=latencies, progress=job.progress)
