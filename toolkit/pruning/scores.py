"""The scores a plan is made of: computed once for all that they depend on, kept on disk, and found again by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from toolkit.core.files import replacing, value_sha256
from toolkit.pruning.criteria.base import Criterion, Task
from toolkit.pruning.gradients import Effort
from toolkit.pruning.scoring import Scored
from toolkit.pruning.settings import PruneSettings

Scorings = Mapping[float, Scored]


def write_scores(path: Path, scorings: Scorings, key: str) -> None:
    """Write every threshold's scores to one safetensors file; ``key`` says what they were computed from."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors = {
        f"{threshold!r}/{part}/{name}": values
        for threshold, scored in scorings.items()
        for part, scores in (("all", scored.scores), *((f"half {i}", half) for i, half in enumerate(scored.halves)))
        for name, values in scores.items()
    }
    facts = {repr(threshold): dict(scored.facts) for threshold, scored in scorings.items()}
    try:
        save_file(tensors, path, metadata={"key": key, "facts": json.dumps(facts)})
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(str(error)) from error


def read_scores(path: Path, key: str | None = None) -> Scorings | None:
    """The scores in the file, None if there is no file or it holds scores of something else than ``key``."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if key not in (None, metadata.get("key")):
                return None
            scores: dict[float, dict[str, dict[str, np.ndarray]]] = {}
            for entry in sorted(file.keys()):
                threshold, part, name = entry.split("/", 2)
                scores.setdefault(float(threshold), {}).setdefault(part, {})[name] = file.get_tensor(entry)
    except SafetensorError:  # a damaged cache is no loss: it is computed again
        return None
    facts = json.loads(metadata["facts"])
    return {
        threshold: Scored(parts.pop("all"), facts[repr(threshold)], tuple(parts.values()))
        for threshold, parts in scores.items()
    }


AUTO_THRESHOLDS = (0.1, 0.05, 0.02, 0.01, 0.0)
SCORED_BY = {
    *("criterion", "threshold", "calibration_images", "norm_term", "seed"),
    *("score_timesteps", "noise_draws", "score_precision"),
}
"""The settings that scores depend on; the target, the group policy and what saves memory only do not."""


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


def scores_key(settings: PruneSettings, inputs: Mapping[str, str]) -> str:
    """What scores are found again by: the settings they depend on and the hashes of what was read."""
    return value_sha256([settings.model_dump(include=SCORED_BY), dict(inputs)])


def find_or_score(criterion: Criterion, task: Task, key: str, places: Sequence[Path]) -> Scorings:
    """The scores of this key in one of ``places``; if none holds them, computed now and written to the last."""
    for path in places:
        cached = read_scores(path, key)
        if cached is not None:
            return cached
    scorings = criterion.score(task)
    with replacing(places[-1]) as temporary:
        write_scores(temporary, scorings, key)
    return scorings
