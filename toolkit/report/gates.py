"""Gates: what a run must hold, for scripts: ``onnxruntime@64.speedup<1.2`` fails if the speed-up is below 1.2.

A figure is of a runner at a batch size (``torch@1.latency_ms``), of a runner (``torch.memory``) or of the run
(``parity``, ``distance``).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from profiles.settings import ProfileSettings
from toolkit.core.errors import DtkError, UsageError, unknown
from toolkit.core.run_folder import RunFolder
from toolkit.report.results import worst_error

Stages = dict[str, Any]  # what each finished stage found: "stages" of report.json
Scope = Literal["cell", "runner", "run"]


class GateFailedError(DtkError):
    """What was measured is not what ``--fail-if`` allows; an exit code of its own tells it from a fault.

    ``profile`` is what was measured.
    """

    exit_code = 4
    profile: object = None


@dataclass(frozen=True)
class Quantity:
    """A figure that gates can name: what it belongs to, the stage that measures it, and where it stands."""

    scope: Scope
    stage: str
    read: Callable[[dict[str, Any]], float]
    means: str


QUANTITIES = {
    "speedup": Quantity("cell", "profile", lambda cell: cell["speedup"]["value"], "dense over compressed latency"),
    "over_baseline": Quantity(
        "cell", "profile", lambda cell: cell["over_baseline"]["value"], "latency of the best dense baseline over it"
    ),
    "realised_share": Quantity("cell", "profile", lambda cell: cell["realised_share"], "speed-up over MACs ratio"),
    "latency_ms": Quantity("cell", "profile", lambda cell: cell["compressed"]["p50_ms"], "compressed, median"),
    "images_per_s": Quantity("cell", "profile", lambda cell: cell["compressed"]["images_per_s"], "compressed"),
    "memory": Quantity("runner", "profile", lambda found: _peak(found["compressed"]), "compressed, peak MiB"),
    "memory_ratio": Quantity(
        "runner", "profile", lambda found: _peak(found["dense"]) / _peak(found["compressed"]), "dense over compressed"
    ),
    "parity": Quantity("run", "export", lambda found: _worst_error(found), "largest relative error of the export"),
    "distance": Quantity("run", "evaluate", lambda found: _distance(found, "compressed"), "Frechet, compressed"),
    "distance_ratio": Quantity(
        "run",
        "evaluate",
        lambda found: _distance(found, "compressed") / _distance(found, "dense"),
        "Frechet, compressed over dense",
    ),
    "ssim": Quantity("run", "evaluate", lambda found: found["pairs"]["ssim"], "compressed against dense"),
}
NOISY = {"speedup": "speedup", "realised_share": "speedup", "over_baseline": "over_baseline"}
"""Figures that say nothing if the measurement they are of was inconclusive."""
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
FORM = "RUNNER@BATCH.FIGURE<NUMBER, RUNNER.FIGURE>NUMBER or FIGURE>NUMBER, such as onnxruntime@64.speedup<1.2"
_PATTERN = re.compile(
    r"\s*(?:(?P<runner>[\w:-]+?)(?:@(?P<batch>[1-9]\d*))?\.)?(?P<figure>[A-Za-z_]+)\s*"
    r"(?P<sign><=|>=|<|>)\s*(?P<limit>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*"
)


@dataclass(frozen=True)
class Gate:
    """A figure, and from which value on it fails."""

    text: str
    figure: str
    sign: str
    limit: float
    runner: str | None = None
    batch: int | None = None

    @property
    def stage(self) -> str:
        """The stage that measures the figure."""
        return QUANTITIES[self.figure].stage

    def failure(self, stages: Stages) -> str | None:
        """What was found if the gate fails, in words; None if the run holds it.

        A speed-up that is inconclusive fails: nothing can be said about it. Raises DtkError if the figure was not
        measured.
        """
        cell = self._place(stages)
        value = QUANTITIES[self.figure].read(cell)
        faster = cell[NOISY[self.figure]] if self.figure in NOISY else {"verdict": "none"}
        if faster["verdict"] == "inconclusive":
            low, high = faster["low"], faster["high"]
            return f"{self.text}: inconclusive, a speed-up of {low:.3g} to {high:.3g}; measure on a quieter machine"
        if not OPERATORS[self.sign](value, self.limit):
            return None
        return f"{self.text}: {value:.4g} ({QUANTITIES[self.figure].means})"

    def _place(self, stages: Stages) -> dict[str, Any]:
        if self.stage not in stages:
            raise DtkError(f"Cannot decide {self.text!r}.", found=f"no {self.stage} stage", do=f"dtk {self.stage} RUN")
        record: dict[str, Any] = stages[self.stage]
        if self.runner is None:
            return record
        record = _entry(record["runners"], self.runner, self.text)
        return record["memory"] if self.batch is None else _entry(record["latency"], str(self.batch), self.text)


def parse(text: str) -> Gate:
    """Read one gate. Raises UsageError for what cannot be read, an unknown figure, or one of another scope."""
    match = _PATTERN.fullmatch(text)
    if not match:
        raise UsageError(f"Cannot read the gate {text!r}.", expected=FORM)
    name = match["figure"]
    if name not in QUANTITIES:
        raise unknown("figure", name, list(QUANTITIES))
    scope: Scope = "cell" if match["batch"] else "runner" if match["runner"] else "run"
    wanted = QUANTITIES[name].scope
    if scope != wanted:
        forms = {"cell": f"RUNNER@BATCH.{name}", "runner": f"RUNNER.{name}", "run": name}
        raise UsageError(f"Cannot read the gate {text!r}.", expected=f"{forms[wanted]} and a limit")
    batch = int(match["batch"]) if match["batch"] else None
    return Gate(text, name, match["sign"], float(match["limit"]), match["runner"], batch)


def check_decidable(gate: Gate, run: RunFolder, settings: ProfileSettings | None, stale: Sequence[str]) -> None:
    """Refuse a gate on what a profile with these settings will not measure, or on figures of an earlier model."""
    if gate.stage != "profile":
        command = f"dtk {gate.stage} {run.path}"
        run.require(gate.stage, command)
        if gate.stage in stale:
            reason = f"its {gate.stage} stage is of an earlier model"
            raise DtkError(f"Cannot decide {gate.text!r}.", found=reason, do=command)
    elif settings and gate.runner not in settings.runners:
        raise UsageError(f"Cannot decide {gate.text!r}.", expected=f"--runner with {gate.runner} in it")
    elif settings and gate.batch and gate.batch not in settings.batches:
        raise UsageError(f"Cannot decide {gate.text!r}.", expected=f"--batch with {gate.batch} in it")


def hold(gates: list[Gate], stages: Stages) -> None:
    """Raise GateFailedError, naming every gate that fails and what was measured."""
    failed = [failure for gate in gates if (failure := gate.failure(stages))]
    if failed:
        raise GateFailedError("The run fails --fail-if.", found="; ".join(failed))


def _entry(measured: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    if name not in measured:
        raise DtkError(f"Cannot decide {text!r}.", found=f"measured: {', '.join(measured)}", expected=name)
    entry: dict[str, Any] = measured[name]
    return entry


def _peak(memory: dict[str, Any]) -> float:
    """The device's memory on a GPU, the process's elsewhere."""
    return float(memory.get("peak_device_mib", memory["peak_rss_mib"]))


def _worst_error(exported: dict[str, Any]) -> float:
    worst = worst_error(exported)
    if worst is None:
        raise DtkError("Cannot decide on parity.", found="an export that was not compared with torch")
    return worst


def _distance(evaluated: dict[str, Any], side: str) -> float:
    return float(evaluated["frechet_distance"][side]["value"])
