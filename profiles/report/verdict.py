"""The run in one sentence: what became smaller, whether it became faster, and what it cost in quality.

Nothing is claimed that was not measured, and no more than the interval allows.
"""

from __future__ import annotations

from typing import Any

from profiles.report import words


def sentence(stages: dict[str, Any]) -> str:
    """The verdict on the finished ``stages`` of a run (the value under "stages" in report.json)."""
    return "; ".join((_size(stages), _speed(stages), _quality(stages))) + "."


def fastest(profile: dict[str, Any]) -> tuple[str, str, dict[str, Any]] | None:
    """Runner, batch size and figures of where the compressed model makes the most images a second."""
    cells = [
        (name, size, cell) for name, found in profile["runners"].items() for size, cell in found["latency"].items()
    ]
    return max(cells, key=lambda cell: cell[2]["compressed"]["images_per_s"], default=None)


def _size(stages: dict[str, Any]) -> str:
    if "prune" not in stages:
        return "Nothing was pruned"
    got = stages["prune"]["got"]
    return f"{got['params_fraction']:.0%} of the parameters and {got['macs_fraction']:.0%} of the MACs are left"


def _speed(stages: dict[str, Any]) -> str:
    best = fastest(stages["profile"]) if "profile" in stages else None
    if best is None:
        return "speed was not measured"
    runner, batch, cell = best
    faster = cell["speedup"]
    return f"{words.speed(faster)} in {runner} at batch {batch} ({faster['confidence']:.0%}: {words.interval(faster)}x)"


def _quality(stages: dict[str, Any]) -> str:
    if "evaluate" not in stages:
        return "quality was not evaluated"
    found = stages["evaluate"]["frechet_distance"]
    dense, compressed = found["dense"], found["compressed"]
    values = f"{words.figure(compressed['value'])} against the dense model's {words.figure(dense['value'])}"
    return f"{compressed['metric']} over {compressed['count']:,} images {values}{_difference(found)}"


def _difference(found: dict[str, Any]) -> str:
    """What the paired interval of dense minus compressed lets one say; nothing where there is none."""
    blocks = found.get("intervals")
    if not blocks:
        return ""
    gap = blocks["dense_minus_compressed"]
    if gap["low"] <= 0 <= gap["high"]:
        return ", a difference within the noise"
    return ", worse" if gap["high"] < 0 else ", better"
