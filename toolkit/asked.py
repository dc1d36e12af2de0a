"""What a command's options ask: a recipe, or other settings of a run's stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit import recipe
from toolkit.errors import UsageError
from toolkit.job import Job
from toolkit.measuring import refuse_idle
from toolkit.recipe import Recipe
from toolkit.settings import Settings


def with_settings(job: Job, stage: str, settings: Settings) -> Job:
    """The job with other settings of one stage."""
    return Job(job.run, job.recipe.model_copy(update={stage: settings}), job.progress, job.notice)


def settings_for(job: Job, stage: str, **changes: Any) -> Settings:
    """The recipe's settings of a stage with ``changes`` (None = as they were), validated."""
    old = getattr(job.recipe, stage)
    values = _merged(old.model_dump(mode="json") if old else {}, changes)
    new: Settings = getattr(recipe.make({stage: values}, f"The {stage} settings"), stage)
    return new


def _merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, change in changes.items():
        value = _merged(old.get(key) or {}, change) or None if isinstance(change, dict) else change
        if value is not None:
            merged[key] = value
    return merged


def compress_recipe(
    model: str | None,
    data: str | None,
    *,
    stream: int | None = None,
    device: str,
    seed: int | None,
    prune: dict[str, Any],
    latency: dict[str, Any],
    recover: dict[str, Any] | None,
) -> Recipe:
    """The recipe of `dtk compress`: prune and recover alone. A setting that is None takes its default.

    Raises UsageError where ``latency`` says how to measure and the target is none to measure.
    """

    def given(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}

    values = {
        "model": model,
        "data": given({"source": data, "stream": stream, "seed": seed}),
        "device": device,
        "prune": given(prune) | ({"latency": given(latency)} if given(latency) else {}),
        "recover": None if recover is None else given(recover),
        **dict.fromkeys(("evaluate", "export", "profile", "handoff")),
    }
    asked = recipe.make(values, "The command line")
    refuse_idle(given(latency), asked.prune.target)
    return asked


def folder_of(path: Path, out: Path | None) -> Path:
    """The run folder of a recipe: ``out``, or the folder it lies in if that is a run."""
    if out is not None:
        return out
    if (path.parent / "run.json").is_file():
        return path.parent
    raise UsageError(f"No run folder was given for {path}.", do="add -o RUN")
