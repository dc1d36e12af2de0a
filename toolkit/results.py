"""What the finished stages of a run found, read from its folder; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporters.stage import result as export_result
from toolkit.errors import DtkError
from toolkit.files import read_json
from toolkit.run_folder import Run

SCHEMA_VERSION = 1
STRUCTURE = ("blocks", "groups", "tensors", "config")  # of plan.json: too long for a report


def _plan(run: Run) -> dict[str, Any]:
    return {key: value for key, value in read_json(run.path / "prune" / "plan.json").items() if key not in STRUCTURE}


def _recover(run: Run) -> dict[str, Any]:
    return dict(run.require("recover", "dtk recover RUN")["result"])


def _file(*parts: str) -> Callable[[Run], dict[str, Any]]:
    return lambda run: read_json(run.path.joinpath(*parts))


READERS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "prune": _plan,
    "recover": _recover,
    "evaluate": _file("evaluate", "metrics.json"),
    "export": lambda run: export_result(run.path / "export"),
    "profile": _file("profile", "profile.json"),
    "handoff": _file("handoff", "handoff.json"),
}

COMMANDS = {"prune": "dtk compress -o RUN", "recover": "dtk recover RUN --steps N"}


def command(stage: str) -> str:
    """What runs a stage of an existing run."""
    return COMMANDS.get(stage, f"dtk {stage} RUN")


def stale(run: Run, compressed_sha256: str) -> list[str]:
    """The finished stages whose figures are of another compressed model than the one with this hash."""
    finished = run.record()["stages"]
    inputs = {stage: finished[stage]["inputs"] for stage in READERS if stage in finished}
    return [stage for stage, read in inputs.items() if read.get("compressed", compressed_sha256) != compressed_sha256]


def read(run: Run) -> dict[str, Any]:
    """``{"schema_version", "machine", "machines", "versions", "seconds", "stages": {stage: what it found},
    "missing": {stage: the command that runs it}}`` of a run.

    ``machine`` and ``versions`` are those of the first stage. Raises DtkError where no stage has finished.
    """
    finished: dict[str, Any] = run.record()["stages"]
    if not finished:
        raise DtkError(f"{Path(run.path)} has nothing to report on yet.", do=f"dtk compress -o {run.path}")
    first = next(iter(finished.values()))
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": first["machine"],
        "machines": {stage: record["machine"] for stage, record in finished.items()},
        "versions": first["versions"],
        "seconds": {stage: record["seconds"] for stage, record in finished.items()},
        "stages": {stage: reader(run) for stage, reader in READERS.items() if stage in finished},
        "missing": {stage: command(stage) for stage in READERS if stage not in finished},
    }
