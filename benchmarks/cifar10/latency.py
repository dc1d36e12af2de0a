"""Latency of the paper's shapes, dense beside three quarters as wide, random weights: every runner at hand.

Latency needs no training, so the widths alone decide. The whole 50-step loop is measured with each single call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.cifar10.pieces import Pieces
from benchmarks.cifar10.shapes import write_shape
from toolkit.core.files import read_json, write_json
from toolkit.runners.base import unavailable

BATCHES = {"cifar10-32": (1, 16, 64, 256), "lsun-256": (1, 4, 16), "ldm4-64": (1, 8, 32)}
DTYPES = {
    "fp32": ("torch", "onnxruntime"),
    "bf16": ("torch", "compile", "cudagraph"),
    "fp16": ("onnxruntime", "tensorrt", "tensorrt-cudagraph"),
}


def measure(name: str, work: Path, results: Path, pieces: Pieces, *, device: str, toy: bool) -> None:
    """Profile one shape in every dtype into ``results/cifar10-latency-NAME-DTYPE.json``; finished ones are kept."""
    dense = write_shape(name, work / "shapes" / name, toy)
    run = work / "latency" / name
    options = ["--data", _noise(dense, work / "shapes" / f"{name}.npz"), "--device", device, "--calibration-images", 2]
    widths = ["--target", "width=0.75", "--criterion", "random", "--no-recover", *(["--align", 4] if toy else [])]
    pieces.dtk("compress", dense, "-o", run, *widths, *options)
    batches = (1, 2) if toy else BATCHES[name]
    for dtype in DTYPES:
        target = results / f"cifar10-latency-{name}-{dtype}.json"
        runners = at_hand(dtype, device)
        if target.is_file() or not runners:
            continue
        if {"onnxruntime", "tensorrt"} & set(runners):
            trt = ["--trt"] if "tensorrt" in runners else []
            pieces.dtk("export", run, "--dtype", dtype, "--batch", f"1:{batches[-2]}:{batches[-1]}", *trt)
        pieces.dtk("run", _recipe(run, dtype, runners, batches, device, toy))
        profile = read_json(run / "profile" / "profile.json")
        write_json(target, {"shape": name, "toy": toy, "weights": "random", "dtype": dtype, "profile": profile})


def at_hand(dtype: str, device: str) -> list[str]:
    """The runners of a dtype that run here; half precision and CUDA graphs are a GPU's business."""
    if device == "cpu" and dtype != "fp32":
        return []
    return [runner for runner in DTYPES[dtype] if unavailable(runner, device) is None]


def _noise(dense: Path, path: Path) -> Path:
    """Images of the right shape for `dtk compress`; random channels are chosen without looking at them."""
    if not path.is_file():
        size = read_json(dense / "unet" / "config.json")["sample_size"]
        images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
        np.savez(path, images=images)
    return path


def _recipe(run: Path, dtype: str, runners: list[str], batches: tuple[int, ...], device: str, toy: bool) -> Path:
    path = run / "recipe.yaml"
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["profile"] = {
        "runners": runners,
        "batches": list(batches),
        "baseline": "torch" if toy else "auto",
        "dtype": dtype if dtype != "fp16" else "fp32",  # of the torch runners, of which fp16 has none
        "device": device,
        "loop_steps": 2 if toy else 50,
        "rounds": {"seconds": 0.1, "least": 6, "most": 6} if toy else {"seconds": 4},
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
