"""What the figures of a run add up to, in the few words that stand above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from profiles.report.verdict import fastest

LOST_SHARE = 0.9  # of the share realised at the largest batch: less than that at batch 1 is worth saying


@dataclass(frozen=True)
class Fact:
    """A headline figure: ``before`` and ``after`` are the places of the two values in report.json, if it has two."""

    name: str
    after: tuple[str, ...]
    style: str
    before: tuple[str, ...] | None = None
    unit: str = ""


def facts(stages: dict[str, Any]) -> list[Fact]:
    """The headline figures that the finished stages have."""
    found = []
    if "prune" in stages:
        for name, figure in (("parameters", "params"), ("MACs", "macs")):
            found.append(_pair(name, ("stages", "prune"), ("dense", figure), ("got", figure), "count"))
    if "profile" in stages:
        profile = ("stages", "profile", "models")
        found.append(
            _pair("weights on disk", profile, ("dense", "weights_bytes"), ("compressed", "weights_bytes"), "size")
        )
        if best := fastest(stages["profile"]):
            runner, batch, _ = best
            cell = ("stages", "profile", "runners", runner, "latency", batch)
            name = f"{runner}, batch {batch}"
            found.append(_pair(name, cell, ("dense", "p50_ms"), ("compressed", "p50_ms"), "figure", "ms"))
    if "evaluate" in stages:
        metric = stages["evaluate"]["frechet_distance"]["dense"]["metric"]
        place = ("stages", "evaluate", "frechet_distance")
        found.append(_pair(metric, place, ("dense", "value"), ("compressed", "value"), "figure"))
    return found


def _pair(
    name: str, place: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...], style: str, unit: str = ""
) -> Fact:
    return Fact(name, (*place, *after), style, (*place, *before), unit)


def launch_bound(runners: dict[str, Any]) -> list[str]:
    """The runners whose smallest batch wins clearly less than their largest: there the time goes into launching work.

    Only those count where both were measured well enough for their intervals not to touch.
    """
    return [name for name, found in runners.items() if _small_wins_less(found["latency"])]


def _small_wins_less(latency: dict[str, Any]) -> bool:
    cells = [latency[batch] for batch in sorted(latency, key=int)]
    if len(cells) < 2 or "inconclusive" in (cells[0]["speedup"]["verdict"], cells[-1]["speedup"]["verdict"]):
        return False
    apart = cells[0]["speedup"]["high"] < cells[-1]["speedup"]["low"]
    return bool(apart and cells[0]["realised_share"] < LOST_SHARE * cells[-1]["realised_share"])


def outlying(runners: dict[str, Any]) -> list[str]:
    """The outliers among the times of each runner and batch size, with the largest of them."""
    told = []
    for name, found in runners.items():
        for batch, cell in found["latency"].items():
            far = [one for model in ("dense", "compressed") for one in cell[model].get("outliers_ms", ())]
            if far:
                told.append(f"{name} at batch {batch}: {len(far)} of {2 * cell['rounds']}, up to {max(far):.3g} ms")
    return told


def unclear(parts: dict[str, Any]) -> list[str]:
    """The parts of a network of which nothing can be said."""
    return [name for name, part in parts.items() if part["speedup"]["verdict"] == "inconclusive"]
