"""Options as users give them, flat and by keyword, into the settings of a recipe's stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolkit.core.errors import UsageError
from toolkit.core.settings import Settings
from toolkit.pipeline import recipe
from toolkit.pipeline.job import Job
from toolkit.pipeline.recipe import Recipe
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.targets import parse_target, split_targets
from toolkit.recovery.settings import RecoverSettings
from toolkit.runners.base import parse_runner

MEASURING = ("runner", "batch", "build_budget_s")
"""The options of compression that say what a latency is measured with; the runner's units also say what is padded."""


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def prune_settings(options: Mapping[str, Any]) -> PruneSettings:
    """The settings of pruning only; None takes the default. Raises UsageError for a wrong or idle option."""
    flat = given(options)
    measuring = {name: flat.pop(name) for name in MEASURING if name in flat}
    nested = {"latency": latency_settings(measuring)} if measuring else {}
    settings: PruneSettings = recipe.make({"prune": flat | nested}, "The options").prune
    idle = [name for name in ("batch", "build_budget_s") if name in measuring]
    if idle and parse_target(settings.target).bound("latency") is None:
        raise UsageError(
            f"--{idle[0].replace('_', '-')} would change nothing.",
            found=f"--target {settings.target}",
            expected="--target latency=... or latency<=..., which alone is measured",
        )
    return settings


def latency_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``MEASURING`` as settings: a runner NAME:DTYPE is a runner and a precision."""
    flat = given(options)
    if "runner" in flat:
        spec = parse_runner(flat["runner"])
        flat |= given({"runner": spec.name, "dtype": spec.dtype})
    return flat


def compress_recipe(
    model: str | None,
    data: str | None,
    options: Mapping[str, Any],
    *,
    recover: bool = True,
    stream: int | None = None,
    device: str = "auto",
    resume_from: str | None = None,
) -> Recipe:
    """The recipe of `dtk compress`: prune and recover only. An option that is None takes its default.

    ``options`` are flat: rounds, those of PruneSettings, LatencySettings' runner and batch, and of RecoverSettings;
    ``decoder`` and ``decoder_steps`` are target and steps of DecoderSettings; ``seed`` is everybody's. Raises
    UsageError for one that is unknown, wrong, or would change nothing.
    """
    flat = given(options)
    rounds = _rounds(flat.pop("rounds", 1))
    decoder = {n: flat.pop(name) for n, name in (("target", "decoder"), ("steps", "decoder_steps")) if name in flat}
    pruning = {*PruneSettings.model_fields, *MEASURING} - {"latency"}
    training = set(RecoverSettings.model_fields)
    if unknown := flat.keys() - pruning - training:
        known = ", ".join(sorted({"rounds", "decoder", "decoder_steps", *pruning, *training}))
        raise UsageError(f"Unknown option {sorted(unknown)[0]!r}.", expected=known)
    if "steps" in decoder and "target" not in decoder:
        raise UsageError("--decoder-steps would change nothing.", do="add --decoder macs=0.5")
    prune = prune_settings({name: flat[name] for name in flat.keys() & pruning})
    if resume_from and (idle := flat.keys() & pruning - {"seed"}):
        raise UsageError(
            f"{' and '.join(f'--{name}' for name in sorted(idle))} would change nothing.",
            found=f"--resume-from {resume_from}",
            expected="the plan of what is resumed",
        )
    values = {
        "model": model,
        "resume_from": resume_from,
        "data": given({"source": data, "stream": stream, "seed": flat.get("seed")}),
        "device": device,
        "rounds": rounds,
        "prune": prune.model_dump(mode="json"),
        "decoder": _decoder(decoder, flat.get("seed"), recover) if decoder else None,
        "recover": {name: flat[name] for name in flat.keys() & training} if recover else None,
        **dict.fromkeys(recipe.LATER),
    }
    return recipe.make(values, "The options")


def _rounds(given: int | str | Sequence[str]) -> int | Sequence[str]:
    """How many, or the targets of those before the last; in words as the command line has them."""
    if not isinstance(given, str):
        return given
    return int(given) if given.strip().lstrip("-").isdigit() else split_targets(given)


def _decoder(options: Mapping[str, Any], seed: int | None, recover: bool) -> dict[str, Any]:
    """Without recovery nothing is trained: neither is the decoder, unless steps are named."""
    return {**({} if recover else {"steps": 0}), **given({"seed": seed}), **options}


def with_options(job: Job, stage: str, options: Mapping[str, Any]) -> Job:
    """The job with other settings of one stage: the recipe's, and each option that is not None; validated."""
    old = getattr(job.recipe, stage)
    values = _merged(old.model_dump(mode="json") if old else {}, options)
    settings: Settings = getattr(recipe.make({stage: values}, f"The settings of {stage}"), stage)
    return replace(job, recipe=job.recipe.model_copy(update={stage: settings}))


def _merged(old: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, option in options.items():
        value = _merged(old.get(name) or {}, option) or None if isinstance(option, dict) else option
        if value is not None:
            merged[name] = value
    return merged
