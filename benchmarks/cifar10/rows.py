"""The rows of the table: one recipe each, equal but for what the row is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PLAIN = {"losses": {"noise": 1.0}}  # the paper's recovery
ROWS: dict[str, dict[str, Any]] = {
    "scratch": {"prune": {"criterion": "scratch"}, "recover": PLAIN},
    "random": {"prune": {"criterion": "random"}, "recover": PLAIN},
    "magnitude": {"prune": {"criterion": "magnitude"}, "recover": PLAIN},
    "taylor": {"prune": {"criterion": "taylor"}, "recover": PLAIN},
    "diff-pruning-0": {"prune": {"threshold": 0.0}, "recover": PLAIN},
    "diff-pruning-0.02": {"prune": {"threshold": 0.02}, "recover": PLAIN},
    "diff-pruning-0.05": {"prune": {"threshold": 0.05}, "recover": PLAIN},
    "dtk": {"prune": {}, "recover": {}},  # dtk's own defaults
    "dtk-macs0.50": {"prune": {"target": "macs=0.5"}, "recover": {}},
    "dtk-macs0.25": {"prune": {"target": "macs=0.25", "min_width": 0.25}, "recover": {}},
}
TRAINING = {
    "batch_size": 128,
    "learning_rate": 2e-4,
    "warmup_steps": 500,
    "ema": 0.9999,
    "flip": True,
    "checkpoint_every": 500,
    "log_every": 50,
}
TOY_TRAINING = {"batch_size": 4, "warmup_steps": 1, "checkpoint_every": 1, "log_every": 1}


def training(toy: bool, on_gpu: bool) -> dict[str, Any]:
    """Settings of every training of the study."""
    if toy:
        return TOY_TRAINING
    return TRAINING | ({"mixed_precision": "bf16", "channels_last": True} if on_gpu else {})


def judged(features: Path, toy: bool) -> dict[str, Any]:
    """Settings of every evaluation of the study."""
    return {
        "images": 12 if toy else 5000,
        "sampling_steps": 2 if toy else 50,
        "batch_size": 4 if toy else 256,
        "features": str(features),
    }


def recipe(
    name: str, dense: Path, data: Path, features: Path, *, steps: int, seed: int, toy: bool, on_gpu: bool
) -> dict[str, Any]:
    """The recipe of row ``name`` after ``steps`` steps of recovery."""
    row = ROWS[name]
    prune = {"target": "width=0.75", "seed": seed, "calibration_images": 4 if toy else 128} | row["prune"]
    if toy:
        prune |= {"threshold": prune.get("threshold", 0.05) or 0.5, "align": 4, "target": "width=0.75"}
    return {
        "model": str(dense),
        "data": {"source": str(data / "train.npz"), "reference": str(data / "reference.npz"), "seed": seed},
        "prune": prune,
        "recover": training(toy, on_gpu) | {"steps": steps, "seed": seed} | row["recover"],
        "evaluate": judged(features, toy),
        "export": None,
        "profile": None,
    }


def dense_recipe(
    model: Path, data: Path, features: Path, *, fresh: bool, steps: int, toy: bool, compiled: bool, on_gpu: bool
) -> dict[str, Any]:
    """Plain training of the dense model: from fresh weights, or on from those of ``model`` (every channel stays)."""
    return {
        "model": str(model),
        "data": {"source": str(data / "train.npz"), "reference": str(data / "reference.npz")},
        "prune": {
            "target": "width=1.0",
            "criterion": "scratch" if fresh else "magnitude",
            "calibration_images": 4 if toy else 32,
        },
        # a constant rate: that of a cosine would depend on where a leg ends
        "recover": training(toy, on_gpu) | {"steps": steps, "schedule": "constant", "compile": compiled} | PLAIN,
        "evaluate": judged(features, toy),
        "export": None,
        "profile": None,
    }
