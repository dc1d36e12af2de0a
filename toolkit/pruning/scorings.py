"""The scores a plan is made of: computed once for all that they depend on, and found again by it."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.files import replacing, value_sha256
from toolkit.pruning.config import PruneSettings
from toolkit.pruning.criteria.base import Criterion, Task
from toolkit.pruning.gradients import Effort
from toolkit.pruning.scores_file import Scorings, read_scores, write_scores
from toolkit.pruning.scoring import Scored
from toolkit.run_folder import Run

AUTO_THRESHOLDS = (0.1, 0.05, 0.02, 0.01, 0.0)
SCORED_BY = {
    *("criterion", "threshold", "calibration_images", "norm_term", "seed"),
    *("score_timesteps", "noise_draws", "score_precision"),
}
"""The settings that scores depend on; the target, the group policy and what saves memory alone do not."""


def thresholds(settings: PruneSettings) -> tuple[float, ...]:
    """The thresholds to score with."""
    return AUTO_THRESHOLDS if settings.threshold == "auto" else (float(settings.threshold),)


def effort(settings: PruneSettings) -> Effort:
    """What scoring may cost."""
    return Effort(
        timesteps=settings.score_timesteps,
        batch_size=settings.calibration_batch_size,
        bf16=settings.score_precision == "bf16",
        checkpointing=settings.gradient_checkpointing,
    )


def find_or_score(
    run: Run, settings: PruneSettings, inputs: Mapping[str, str], criterion: Criterion, task: Task
) -> tuple[Scorings, str]:
    """The scores and their key: the run's earlier ones where those were computed from the same things.

    ``inputs`` are the hashes of what was read. A run that was cut short after the scoring has left its scores, too.
    """
    key = value_sha256([settings.model_dump(include=SCORED_BY), dict(inputs)])
    cache = run.path / "cache" / "scores.safetensors"
    if not task.layout.groups:  # only blocks go, and those are not scored but tried
        return dict.fromkeys(task.thresholds, Scored({}, {})), key
    for path in (run.path / "prune" / "scores.safetensors", cache):
        cached = read_scores(path, key)
        if cached is not None:
            return cached, key
    scorings = criterion.score(task)
    with replacing(cache) as temporary:
        write_scores(temporary, scorings, key)
    return scorings, key
