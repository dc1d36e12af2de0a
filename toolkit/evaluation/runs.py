"""Evaluations of several runs side by side; figures that do not compare are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.errors import UsageError
from toolkit.evaluation.figures import Figure, difference
from toolkit.files import read_json
from toolkit.run_folder import Run

METRICS = ("frechet_distance", "kernel_distance", "precision", "recall")
SAMPLING = ("sampler", "sampling_steps", "guidance", "seed")


def compare_evaluations(runs: Sequence[Run]) -> dict[str, Any]:
    """``runs`` (name, how it sampled) and ``rows``: each metric of the compressed models, others minus the first.

    Raises DtkError where a run has no evaluation, or where count, extractor or reference differ. How images were
    sampled may differ; it stands beside the run.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("A run is named twice.", expected="different run folders")
    for run in runs:
        run.require("evaluate", f"dtk evaluate {run.path}")
    found = [read_json(run.path / "evaluate" / "metrics.json") for run in runs]
    named = [
        {"name": str(run.path)} | {key: one["settings"].get(key) for key in SAMPLING}
        for run, one in zip(runs, found, strict=True)
    ]
    metrics = [metric for metric in METRICS if all(metric in one for one in found)]
    return {"runs": named, "rows": [_row([one[metric]["compressed"] for one in found]) for metric in metrics]}


def _row(records: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = (Figure.from_json(record) for record in records)
    return first.to_json() | {
        "values": [first.value, *(other.value for other in others)],
        "differences": [difference(other, first).value for other in others],
    }
