"""The best way to run what a profile measured, for a goal, as the recipe that exports it and hands it off so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from exporters.settings import BatchRange, ExportSettings
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json
from toolkit.handoff.settings import HandoffSettings
from toolkit.pipeline.recipe import Recipe
from toolkit.runners.base import parse_runner, runner_reads

Goal = Literal["latency", "throughput"]
Choice = dict[str, Any]


def best(run: Path, profile: dict[str, Any], goal: Goal) -> Choice:
    """Runner, precision, opset and batch of what suits ``goal`` best among the exports that a server can run.

    ``latency``: the shortest call at the smallest batch size measured. ``throughput``: the most images per second at
    any. ``passed_over``: what would be better still, and why no server runs it. Raises DtkError if no export was
    measured.
    """
    cells = sorted(_cells(profile, goal), key=lambda cell: cell["latency_ms"] / cell["batch"])
    chosen = next((cell for cell in cells if _runtime(cell)), None)
    if chosen is None:
        raise DtkError(
            f"Nothing that was measured can be handed off for {goal}.",
            found=", ".join(profile["runners"]),
            do=f"dtk export {run}, then add --runner onnxruntime or tensorrt to dtk profile",
        )
    opset = read_json(run / "export" / "onnx" / "compressed.json")["opset"]
    reason = f"the runtimes of a server are {', '.join(_runtimes())}"
    better: dict[str, Choice] = {}
    for cell in cells[: cells.index(chosen)]:
        better.setdefault(cell["runner"], cell | {"why": reason})
    return {"goal": goal, **chosen, "opset": opset, "passed_over": list(better.values())}


def with_best(recipe: Recipe, run: Path, choice: Choice, device: str) -> Recipe:
    """The recipe whose export and handoff are those of ``choice``; what it says nothing of stays."""
    exporting, handing = recipe.export or ExportSettings(), recipe.handoff or HandoffSettings()
    batch, of_engine = choice["batch"], runner_reads(parse_runner(choice["runner"]).name) == "engine"
    sizes = BatchRange(min=min(exporting.batch.min, batch), opt=batch, max=max(exporting.batch.max, batch))
    exported = {
        "dtype": read_json(run / "export" / "onnx" / "compressed.json")["dtype"],
        "opset": choice["opset"],
        "batch": sizes,
        "trt": of_engine,
    }
    handed = {
        "runtime": _runtime(choice),
        "device": "gpu" if device.startswith("cuda") else "cpu",
        "max_batch": batch,
    }
    return recipe.model_copy(
        update={
            "export": ExportSettings(**exporting.model_dump() | exported),
            "handoff": HandoffSettings(**handing.model_dump() | handed),
        }
    )


def _cells(profile: dict[str, Any], goal: Goal) -> Iterator[Choice]:
    """What was measured well, of the smallest batch size if the goal is latency."""
    sizes = [int(size) for measured in profile["runners"].values() for size in measured["latency"]]
    for name, measured in profile["runners"].items():
        for size, cell in measured["latency"].items():
            if goal == "throughput" or int(size) == min(sizes):
                latency_ms, made = cell["compressed"]["p50_ms"], cell["compressed"]["images_per_s"]
                place = {"runner": name, "dtype": measured["dtype"], "batch": int(size)}
                yield place | {"latency_ms": latency_ms, "images_per_s": made}


def _runtimes() -> tuple[str, ...]:
    runtimes: tuple[str, ...] = get_args(HandoffSettings.model_fields["runtime"].annotation)
    return runtimes


def _runtime(cell: Choice) -> str | None:
    """The server's runtime that runs what this cell's runner does, None if there is none."""
    name = parse_runner(cell["runner"]).name
    reads = runner_reads(name)
    if cell["dtype"] == "tf32" and reads == "onnx":  # a server's session rounds nothing
        return None
    names = (f"{name}:{cell['dtype']}", "tensorrt" if reads == "engine" else name)
    return next((runtime for runtime in names if runtime in _runtimes()), None)
