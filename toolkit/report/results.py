"""What the finished stages of a run found, read from its folder; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.base import NAMES
from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import read_json
from toolkit.core.run_folder import RunFolder
from toolkit.diffusion.step_loop import STEP
from toolkit.pruning.plan import without_structure

AROUND = ("decoder", "encoder", "conditioner")

SCHEMA_VERSION = 2


def _plan(run: RunFolder) -> dict[str, Any]:
    return without_structure(read_json(run.path / "prune" / "plan.json"))


def _recover(run: RunFolder) -> dict[str, Any]:
    return dict(run.require("recover", "dtk recover RUN")["result"])


def _file(*parts: str) -> Callable[[RunFolder], dict[str, Any]]:
    return lambda run: read_json(run.path.joinpath(*parts))


def export_result(folder: Path) -> dict[str, Any]:
    """What a finished export stage left in ``folder``."""
    record: dict[str, Any] = {"onnx": {}, **read_json(folder / "parity.json")}
    around = [name for name in AROUND if (folder / "onnx" / f"{name}.onnx").is_file()]
    for name in (*NAMES, STEP, *around):
        path = folder / "onnx" / f"{name}.onnx"
        description = read_json(path.with_suffix(".json"))
        description.pop("schedules", None)  # thousands of numbers for a server's loop
        record["onnx"][name] = {"file": str(path.relative_to(folder.parent))} | description
    return record


READERS: dict[str, Callable[[RunFolder], dict[str, Any]]] = {
    "prune": _plan,
    "decoder": _file("decoder", "result.json"),
    "recover": _recover,
    "evaluate": _file("evaluate", "metrics.json"),
    "export": lambda run: export_result(run.path / "export"),
    "profile": _file("profile", "profile.json"),
    "verify": _file("verify", "verify.json"),
    "handoff": _file("handoff", "handoff.json"),
}

COMMANDS = {
    "prune": "dtk compress -o RUN",
    "decoder": "dtk compress --decoder macs=0.5 -o RUN",
}
OPTIONAL = ("decoder",)  # not every model has one: it is missing from no run


def worst_error(exported: Mapping[str, Any]) -> float | None:
    """The largest relative error of the compressed model's files; None if the exported one was not compared."""
    rungs = exported["parity"]["compressed"]
    if "predictions" not in rungs.get(exported["onnx"]["compressed"]["dtype"], {}):
        return None
    compared = [rung["predictions"]["worst"] for rung in rungs.values() if "predictions" in rung]
    return max(float(worst["relative_error"]) for worst in compared)


def command(stage: str, run: object = "RUN") -> str:
    """What runs a stage of an existing run."""
    return COMMANDS.get(stage, f"dtk {stage} RUN").replace("RUN", str(run))


def stale(run: RunFolder, compressed_sha256: str) -> list[str]:
    """The finished stages whose figures are of another compressed model than the one with this hash."""
    finished = run.record()["stages"]
    inputs = {stage: finished[stage]["inputs"] for stage in READERS if stage in finished}
    return [stage for stage, read in inputs.items() if read.get("compressed", compressed_sha256) != compressed_sha256]


def _found(run: RunFolder, stage: str) -> dict[str, Any]:
    try:
        return READERS[stage](run)
    except DtkError as error:
        again = f"dtk run {run.path / 'recipe.yaml'}"  # with the options of then, which an early stage depends on
        raise DtkError(
            f"{run.path} says that the stage {stage} has finished, and its result cannot be read.",
            found=first_line(error),
            do=again if stage in COMMANDS else command(stage, run.path),
        ) from error


def read(run: RunFolder) -> dict[str, Any]:
    """``{"schema_version", "machine", "machines", "versions", "seconds", "stages": {stage: what it found},
    "missing": {stage: the command that runs it}}`` of a run.

    ``machine`` and ``versions`` are those of the stage that ran first. Raises DtkError if no stage has finished, or if
    the result of one cannot be read.
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
        "stages": {stage: _found(run, stage) for stage in READERS if stage in finished},
        "missing": {stage: command(stage, run.path) for stage in READERS if stage not in {*finished, *OPTIONAL}},
    }
