"""What a plan records besides the channels it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.adapters.space import Values
from toolkit.pruning import selection
from toolkit.pruning.calibration import Calibrations
from toolkit.pruning.choice import Choice
from toolkit.pruning.cost import Count, by_level
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.settings import PruneSettings
from toolkit.pruning.targets import Bound, Target


def sizes(prunable: Prunable, settings: PruneSettings, values: Values, count: Count) -> dict[str, Any]:
    """Requested and achieved, and the widths."""
    dense, achieved = count(prunable.config), count(prunable.space.configure(values))
    levels = by_level(dense.macs_by_part), by_level(achieved.macs_by_part)
    return {
        "requested": settings.model_dump(),
        "dense": {"params": dense.params, "macs": dense.macs},
        "achieved": {
            "params": achieved.params,
            "macs": achieved.macs,
            "params_fraction": achieved.params / dense.params,
            "macs_fraction": achieved.macs / dense.macs,
        },
        "macs_by_level": {
            name: {"dense": macs, "achieved": levels[1].get(name, 0)} for name, macs in levels[0].items()
        },
        "widths": [
            {"name": variable.name, "kind": variable.kind, "dense": variable.dense, "achieved": value}
            for variable, value in zip(prunable.space.variables, values, strict=True)
        ],
    }


def of_bounds(target: Target, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each bound as requested and as achieved, both as a fraction of dense or both absolute (counts, ms)."""

    def achieved(bound: Bound) -> float:
        if bound.figure == "latency":
            return float(facts["latency"]["ms" if bound.absolute else "fraction"])
        if bound.figure == "width":
            return max(w["achieved"] / w["dense"] for w in facts["widths"] if w["kind"] == "width")
        return float(facts["achieved"][bound.figure if bound.absolute else f"{bound.figure}_fraction"])

    return [
        {"bound": bound.text, "figure": bound.figure, "requested": bound.value, "achieved": achieved(bound)}
        for bound in target.bounds
    ]


def of_choice(choice: Choice, dense_loss: float | None) -> dict[str, Any]:
    """How the choice came about, and the losses on held-out images before and after slicing."""
    even = "the most even widths, as no images were given to compare others on"
    return {
        "chosen_by": even if dense_loss is None else "one-shot loss on held-out images",
        "uniform": choice.uniform,
        "retained": choice.retained,
        "held_out_loss": {"dense": dense_loss, "one_shot": choice.one_shot_loss},
        "time_embedding_error": choice.time_embedding_error,
        "scoring": dict(choice.scored.facts),
    }


def stability(prunable: Prunable, choice: Choice) -> dict[str, float] | None:
    """How far the scores of the two halves of the calibration images agree; None for a criterion that reads none."""
    if not choice.scored.halves:
        return None
    config = prunable.space.configure(choice.values)
    group_sizes = {name: group.size for name, group in prunable.layout.groups.items()}
    one, other = choice.scored.halves
    return {
        "rank_correlation": selection.rank_correlation(one, other),
        "kept_overlap": selection.kept_overlap(prunable.kept(one, config), prunable.kept(other, config), group_sizes),
    }


def of_calibration(calibrations: Calibrations | None, settings: PruneSettings) -> dict[str, Any] | None:
    """Which images scored, with which noise; None if none did."""
    if calibrations is None:
        return None
    return {
        "source": calibrations.source,
        "sha256": calibrations.sha256,
        "images": settings.calibration_images,
        "noise_draws": settings.noise_draws,
        "seed": settings.seed,
        "skipped": calibrations.skipped,
    }
