"""How the dense model's training went: images per second, loss and distance against steps."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median
from typing import Any

from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json

LATELY = 20  # lines of the log that a point's loss is the mean of: one batch says little


def add_point(results: Path, run: Path, toy: bool, device: str) -> None:
    """Add where RUN stands to the results; a point of the same step is replaced."""
    known = read_json(results)["points"] if results.is_file() else []
    found = point(run)
    points = [*(one for one in known if one["steps"] < found["steps"]), found]
    write_json(results, {"toy": toy, "points": points, "machine": machine(device), "versions": versions()})


def steps_done(run: Path) -> int:
    """The steps of RUN's last finished training; 0 if there is none."""
    path = run / "run.json"
    finished = read_json(path)["stages"].get("recover") if path.is_file() else None
    return int(finished["result"]["steps"]) if finished else 0


def point(run: Path) -> dict[str, Any]:
    """The training's log and the evaluation's figures of the model that RUN's last finished training left."""
    steps = steps_done(run)
    logged = (run / "recover" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [line for line in map(json.loads, logged) if line["step"] <= steps]  # training may have gone on since
    judged = read_json(run / "evaluate" / "metrics.json")["frechet_distance"]
    return {
        "steps": steps,
        "noise_loss": mean(line["noise"] for line in lines[-LATELY:]),
        "images_per_s": median(line["images_per_s"] for line in lines),
        "distance": judged["compressed"]["value"],  # of the trained model; "dense" is what it started from
        "floor": judged["floor"]["value"] if "floor" in judged else None,
        "count": judged["compressed"]["count"],
    }
