"""The rounds before the last: each a run of its own in RUN/rounds/N, pruned a share of the way and recovered."""

from __future__ import annotations

from typing import Any

from toolkit.adapters.base import adapter_of
from toolkit.core.errors import UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.pipeline import prune as prune_stage
from toolkit.pipeline import recover as recover_stage
from toolkit.pipeline.job import Job
from toolkit.pruning.latency import Latencies
from toolkit.pruning.rounds import target_of


def earlier_round(job: Job, latencies: Latencies | None) -> RunFolder | None:
    """Prune and recover in every round but the last, always with the dense model as teacher; the last of these runs.

    None for a recipe of one round. A finished round is not repeated, an interrupted one resumes. Raises UsageError for
    a class that is pruned only by blocks.
    """
    recover, run = job.recipe.recover, None
    if recover is None or job.recipe.rounds == 1:
        return None
    if not adapter_of(job.dense.class_name).has_widths:
        raise UsageError("Rounds prune widths, and this class is pruned only by blocks.", found=job.dense.class_name)
    for number in range(1, job.recipe.rounds):
        target = target_of(job.recipe.prune.target, number, job.recipe.rounds)
        settings = job.recipe.prune.model_copy(update={"target": target})
        after, run = run, RunFolder.create(job.run.path / "rounds" / str(number))
        images = job.examples if job.reads_images else None
        shared: dict[str, Any] = {"device": job.device, "progress": job.progress}
        prune_stage.prune(run, settings, job.dense, images, earlier=after, latencies=latencies, **shared)
        teaching_comes_last = recover.model_copy(update={"sampling_steps": None})
        recover_stage.recover(run, teaching_comes_last, job.dense, job.examples, held_out=job.held_out, **shared)
    return run
