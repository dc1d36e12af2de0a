"""Several runs side by side: their profiles, and their evaluations. What does not compare is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import read_json
from toolkit.core.run_folder import RunFolder
from toolkit.evaluation.measurements import Measurement, difference

HARDWARE = ("processor", "cores", "device", "gpu", "gpu_memory_mib", "compute_capability")
NOT_INTERLEAVED = (
    "the runs were measured one after the other, not interleaved: only differences within a run have intervals"
)


def compare_runs(runs: Sequence[RunFolder], *, across_machines: bool = False) -> dict[str, Any]:
    """``runs`` (name, machine, sizes), ``rows`` (runner, batch, each run's figures or None) and ``notes``.

    Raises DtkError if a run has no profile, or if the machines differ and ``across_machines`` does not allow it.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("A run is named twice.", expected="different run folders")
    records = [run.require("profile", f"dtk profile {run.path}") for run in runs]
    figures = [read_json(run.path / "profile" / "profile.json") for run in runs]
    machines = [{name: profile["machine"].get(name) for name in HARDWARE} for profile in figures]
    notes = [NOT_INTERLEAVED]
    if any(machine != machines[0] for machine in machines):
        _refuse_unless(across_machines, runs, machines)
        notes.append(
            "the runs were measured on different machines: their latencies compare the machines as well as the models"
        )
    notes += _differing("versions", [record["versions"] for record in records])
    notes += _differing("settings", [record["settings"] for record in records])
    return {"runs": [_run(*facts) for facts in zip(runs, figures, strict=True)], "rows": _rows(figures), "notes": notes}


def _refuse_unless(allowed: bool, runs: Sequence[RunFolder], machines: list[dict[str, Any]]) -> None:
    if allowed:
        return
    differences = [
        f"{run.path}: {', '.join(str(fact) for fact in machine.values() if fact is not None)}"
        for run, machine in zip(runs, machines, strict=True)
    ]
    raise DtkError(
        "These runs were measured on different machines.",
        found="; ".join(differences),
        expected="profiles of one machine",
        do="profile them on one machine, or add --across-machines to see them side by side, labelled",
    )


def _differing(what: str, values: list[dict[str, Any]]) -> list[str]:
    names = sorted({name for value in values for name in value})
    differences = [
        f"{name} {', '.join(str(value.get(name)) for value in values)}"
        for name in names
        if any(value.get(name) != values[0].get(name) for value in values)
    ]
    return [f"{what} differ: {'; '.join(differences)}"] if differences else []


def _run(run: RunFolder, figures: dict[str, Any]) -> dict[str, Any]:
    compressed = figures["models"]["compressed"]
    counts = {name: compressed[name] for name in ("params", "macs", "weights_bytes")}
    return {"name": str(run.path), "machine": figures["machine"], **counts}


def _rows(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each runner and batch size that any run has, in the order of the first to have it."""
    places = dict.fromkeys(
        (runner, batch)
        for profile in figures
        for runner, measured in profile["runners"].items()
        for batch in measured["latency"]
    )
    return [
        {"runner": runner, "batch": int(batch), "runs": [_cell(profile, runner, batch) for profile in figures]}
        for runner, batch in places
    ]


def _cell(figures: dict[str, Any], runner: str, batch: str) -> dict[str, Any] | None:
    cell = figures["runners"].get(runner, {"latency": {}})["latency"].get(batch)
    if cell is None:
        return None
    return {"dense_ms": cell["dense"]["p50_ms"], "compressed_ms": cell["compressed"]["p50_ms"], **cell["speedup"]}


METRICS = ("frechet_distance", "kernel_distance", "precision", "recall")
SAMPLING = ("sampler", "sampling_steps", "guidance", "seed")


def compare_evaluations(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """``runs`` (name, how it sampled) and ``rows``: each metric of the compressed models, others minus the first.

    Raises DtkError if a run has no evaluation, or if count, extractor or reference differ. How images were
    sampled may differ; it stands next to the run.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UsageError("A run is named twice.", expected="different run folders")
    for run in runs:
        run.require("evaluate", f"dtk evaluate {run.path}")
    metrics_of_runs = [read_json(run.path / "evaluate" / "metrics.json") for run in runs]
    named = [
        {"name": str(run.path)} | {key: one["settings"].get(key) for key in SAMPLING}
        for run, one in zip(runs, metrics_of_runs, strict=True)
    ]
    metrics = [metric for metric in METRICS if all(metric in one for one in metrics_of_runs)]
    return {"runs": named, "rows": [_row([one[metric]["compressed"] for one in metrics_of_runs]) for metric in metrics]}


def _row(records: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = (Measurement.from_json(record) for record in records)
    return first.to_json() | {
        "values": [first.value, *(other.value for other in others)],
        "differences": [difference(other, first).value for other in others],
    }
