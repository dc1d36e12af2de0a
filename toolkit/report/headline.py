"""What a run found, in one sentence and a few figures above all others.

Nothing is claimed that was not measured, and no more than the interval allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.report import words

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
    headline = []
    if gain := measured_gain(stages):
        name, place = "images per second" + in_steps(gain), ("stages", "profile", "headline")
        headline.append(_pair(name, place, ("baseline", "images_per_s"), ("compressed", "images_per_s"), "figure"))
    if "prune" in stages:
        for name, figure in (("parameters", "params"), ("MACs", "macs")):
            headline.append(_pair(name, ("stages", "prune"), ("dense", figure), ("achieved", figure), "count"))
    if "profile" in stages:
        profile = ("stages", "profile", "models")
        headline.append(
            _pair("weights on disk", profile, ("dense", "weights_bytes"), ("compressed", "weights_bytes"), "size")
        )
    if "evaluate" in stages:
        metric = stages["evaluate"]["frechet_distance"]["dense"]["metric"]
        place = ("stages", "evaluate", "frechet_distance")
        headline.append(_pair(metric, place, ("dense", "value"), ("compressed", "value"), "figure"))
    return headline


def _pair(
    name: str, place: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...], style: str, unit: str = ""
) -> Fact:
    return Fact(name, (*place, *after), style, (*place, *before), unit)


def launch_bound(runners: dict[str, Any]) -> list[str]:
    """The runners whose speed-up is clearly smaller at the smallest batch: launching work binds them.

    Only those count if both were measured well enough for their intervals not to touch.
    """
    return [name for name, figures in runners.items() if _small_wins_less(figures["latency"])]


def _small_wins_less(latency: dict[str, Any]) -> bool:
    cells = [latency[batch] for batch in sorted(latency, key=int)]
    if len(cells) < 2 or "inconclusive" in (cells[0]["speedup"]["verdict"], cells[-1]["speedup"]["verdict"]):
        return False
    apart = cells[0]["speedup"]["high"] < cells[-1]["speedup"]["low"]
    return bool(apart and cells[0]["realised_share"] < LOST_SHARE * cells[-1]["realised_share"])


def outlying(runners: dict[str, Any]) -> list[str]:
    """The outliers among the times of each runner and batch size, with the largest of them."""
    described = []
    for name, figures in runners.items():
        for batch, cell in figures["latency"].items():
            far = [one for model in ("dense", "compressed") for one in cell[model].get("outliers_ms", ())]
            if far:
                described.append(
                    f"{name} at batch {batch}: {len(far)} of {2 * cell['rounds']}, up to {max(far):.3g} ms"
                )
    return described


def refused(runners: dict[str, Any]) -> list[str]:
    """The cells whose figures are not shown, and why."""
    return [
        f"{name}, {'the whole loop' if place == 'loop' else f'batch {place}'}: {cell['refused']}, so no figure is shown"
        for name, figures in runners.items()
        for place, cell in figures.get("refused", {}).items()
    ]


def unclear(parts: dict[str, Any]) -> list[str]:
    """The parts of a network of which nothing can be said."""
    return [name for name, part in parts.items() if part["speedup"]["verdict"] == "inconclusive"]


def sentence(stages: dict[str, Any]) -> str:
    """The verdict on the finished ``stages`` of a run (the value under "stages" in report.json).

    What was found, a refusal included, comes before what was not measured.
    """
    parts = {speed(stages): stages.get("profile", {}).get("headline") is not None}
    parts |= {_quality(stages): "evaluate" in stages, _size(stages): "prune" in stages}
    return words.sentence("; ".join(sorted(parts, key=lambda part: not parts[part])))


def measured_gain(stages: dict[str, Any]) -> dict[str, Any] | None:
    """What the compressed model makes at its best, beside the best dense baseline; None if that was not measured."""
    headline: dict[str, Any] | None = stages.get("profile", {}).get("headline")
    return headline if headline and "refused" not in headline else None


def in_steps(gain: dict[str, Any]) -> str:
    """What an image of a gain is: of the whole sampling loop, or of a single call."""
    if "steps" not in gain:
        return " of one denoiser call"
    steps = dict.fromkeys((gain["steps"], gain.get("compressed_steps", gain["steps"])))
    return f" in {' and '.join(map(str, steps))} steps"


def _size(stages: dict[str, Any]) -> str:
    if "prune" not in stages:
        return "nothing was pruned"
    achieved = stages["prune"]["achieved"]
    decoder = stages.get("decoder")
    of_decoder = f", and {decoder['achieved']['macs_fraction']:.0%} of the decoder's" if decoder else ""
    left = f"{achieved['params_fraction']:.0%} of the parameters and {achieved['macs_fraction']:.0%} of the MACs"
    return f"{left}{of_decoder} are left"


def speed(stages: dict[str, Any]) -> str:
    """Images per second: what the user had, what there is now, and the share that pruning has in it."""
    gain = measured_gain(stages)
    if gain is None:
        refused = (stages.get("profile", {}).get("headline") or {}).get("refused")
        return f"speed was refused: {refused}" if refused else "speed was not measured"
    made = {which: f"{words.figure(gain[which]['images_per_s'])}" for which in ("baseline", "compressed")}
    place = {when: f"{gain[when]['runner']}, batch {gain[when]['batch']}" for when in ("had", "now")}
    faster, pruning = gain["over_baseline"], gain["speedup"]
    share = "inconclusive" if pruning["verdict"] == "inconclusive" else f"{words.interval(pruning)}x"
    return (
        f"{made['compressed']} images/s{in_steps(gain)} ({place['now']}) where the dense model made "
        f"{made['baseline']} ({place['had']}): {words.speed(faster)} "
        f"({faster['confidence']:.0%}: {words.interval(faster)}x), pruning's share {share}"
    )


def _quality(stages: dict[str, Any]) -> str:
    if "evaluate" not in stages:
        return "quality was not evaluated"
    distances = stages["evaluate"]["frechet_distance"]
    dense, compressed = distances["dense"], distances["compressed"]
    values = f"{words.figure(compressed['value'])} against the dense model's {words.figure(dense['value'])}"
    return f"{compressed['metric']} over {compressed['count']:,} images {values}{_difference(distances)}"


def _difference(evaluation: dict[str, Any]) -> str:
    """What the paired interval of dense minus compressed lets one say; nothing if there is none."""
    blocks = evaluation.get("intervals")
    if not blocks:
        return ""
    gap = blocks["dense_minus_compressed"]
    if gap["low"] <= 0 <= gap["high"]:
        return ", a difference within the noise"
    return ", worse" if gap["high"] < 0 else ", better"
