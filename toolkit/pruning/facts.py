"""What a plan records beside the channels it keeps."""

from __future__ import annotations

from typing import Any

from toolkit.data.examples import Examples
from toolkit.pruning import agreement
from toolkit.pruning.choice import Choice
from toolkit.pruning.config import PruneSettings
from toolkit.pruning.cost import Count, by_level
from toolkit.pruning.engine import Engine
from toolkit.pruning.space import Values


def figures(engine: Engine, settings: PruneSettings, values: Values, count: Count) -> dict[str, Any]:
    """Asked and got, and the widths."""
    dense, got = count(engine.config), count(engine.space.configure(values))
    levels = by_level(dense.macs_by_part), by_level(got.macs_by_part)
    return {
        "asked": settings.model_dump(),
        "dense": {"params": dense.params, "macs": dense.macs},
        "got": {
            "params": got.params,
            "macs": got.macs,
            "params_fraction": got.params / dense.params,
            "macs_fraction": got.macs / dense.macs,
        },
        "macs_by_level": {name: {"dense": macs, "got": levels[1].get(name, 0)} for name, macs in levels[0].items()},
        "widths": [
            {"name": variable.name, "kind": variable.kind, "dense": variable.dense, "got": value}
            for variable, value in zip(engine.space.variables, values, strict=True)
        ],
    }


def record(choice: Choice, dense_loss: float | None) -> dict[str, Any]:
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


def stability(engine: Engine, choice: Choice) -> dict[str, float] | None:
    """How far the scores of the two halves of the calibration images agree; None for a criterion that reads none."""
    if not choice.scored.halves:
        return None
    config = engine.space.configure(choice.values)
    sizes = {name: group.size for name, group in engine.layout.groups.items()}
    one, other = choice.scored.halves
    return {
        "rank_correlation": agreement.rank_correlation(one, other),
        "kept_overlap": agreement.overlap(engine.kept(one, config), engine.kept(other, config), sizes),
    }


def calibration_record(train: Examples, settings: PruneSettings) -> dict[str, Any]:
    """Which images scored, with which noise."""
    return {
        "source": train.source,
        "sha256": train.sha256,
        "images": settings.calibration_images,
        "noise_draws": settings.noise_draws,
        "seed": settings.seed,
        "skipped": len(train.skipped),
    }
