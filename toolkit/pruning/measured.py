"""A target in latency: what measures it, and what a plan says of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from toolkit.errors import DtkError
from toolkit.progress import Progress
from toolkit.pruning.config import PruneSettings
from toolkit.pruning.engine import Engine
from toolkit.pruning.latency_cost import LatencyCost, Timing
from toolkit.pruning.space import Config, Values
from toolkit.pruning.targets import Target


class Latencies(Protocol):
    """Measures latencies in turns with the dense model; handed in by the pipeline."""

    def measure(self, config: Config) -> Timing:
        """A stock configuration, from the table of what was measured before where it is there."""
        ...

    def check(self, network: nn.Module) -> Timing:
        """A network as it is, now."""
        ...


def latency_cost(engine: Engine, target: Target, latencies: Latencies | None, progress: Progress) -> LatencyCost | None:
    """The cost function of a target in latency, its table measured; None for another target."""
    if target.figure != "latency":
        return None
    if latencies is None:
        raise DtkError("A target in latency needs a runner to measure with.", found="none was given")
    return LatencyCost(engine.space, latencies.measure, progress)


def latency_facts(
    cost: LatencyCost, values: Values, target: Target, settings: PruneSettings, again: Timing | None = None
) -> dict[str, Any]:
    """What was measured of a choice, for the plan: ``again`` is the pruned model itself, else the table's entry counts.

    ``missed`` says in words where the target was not met when measured ``again``, else it is None.
    """
    goal = target.goal(cost.dense_ms)
    timing = again or cost.timings.get(values)
    figures = _figures(timing) if timing else {"dense_ms": cost.dense_ms, "ms": cost.dense_ms, **_AS_DENSE}
    shown = figures["ms"] / goal if target.absolute else figures["fraction"] / target.value
    return {
        **settings.latency.model_dump(mode="json"),
        "goal_ms": goal,
        **figures,
        "table": {"dense_ms": cost.dense_ms, "fraction": cost.fraction(values), "entries": len(cost.timings)},
        "prediction_errors": sorted(cost.surprises.values()),
        "missed": None if abs(shown - 1) <= target.tolerances[-1] else _missed(figures, target, shown),
    }


_AS_DENSE: Mapping[str, Any] = {"fraction": 1.0, "low": 1.0, "high": 1.0, "clock": "none"}


def _figures(timing: Timing) -> dict[str, Any]:
    return {name: getattr(timing, name) for name in ("dense_ms", "ms", "fraction", "low", "high", "clock")}


def _missed(figures: Mapping[str, Any], target: Target, shown: float) -> str:
    reached = f"{figures['ms']:.3g} ms" if target.absolute else f"{figures['fraction']:.3f} of dense"
    asked = target.shown(target.value) if target.absolute else f"{target.value:g}"
    return (
        f"Measured again, the model takes {reached} and not {asked} ({shown - 1:+.1%}): "
        "the table met it, the machine has changed or is too noisy."
    )
