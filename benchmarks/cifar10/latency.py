"""Latency of the paper's shapes, dense beside three quarters as wide, random weights: every runner at hand.

Latency needs no training, so the widths alone decide. The whole loop is measured with each single call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.cifar10.pieces import Pieces
from benchmarks.cifar10.shapes import write_shape
from toolkit.core.files import read_json, write_json
from toolkit.runners.base import runner_reads, unavailable

OPSET = 18  # every runner reads it; each further one is traced and proven
DEFAULT = "default"  # the embedded model, besides the paper's shapes
BATCHES = {DEFAULT: (1, 16, 64, 256), "cifar10-32": (1, 16, 64, 256), "lsun-256": (1, 4, 16), "ldm4-64": (1, 8, 32)}
BRIEF_BATCHES = BATCHES | {DEFAULT: (1, 16, 256), "cifar10-32": (1, 16, 128)}
DTYPES = {
    "fp32": ("torch", "onnxruntime"),
    "bf16": ("torch", "compile", "cudagraph"),
    "fp16": ("onnxruntime", "tensorrt", "tensorrt-cudagraph"),
}


def measure(name: str, work: Path, results: Path, pieces: Pieces, *, device: str, toy: bool) -> None:
    """Profile one shape in every dtype into ``results/cifar10-latency-NAME-DTYPE.json``; finished ones are kept."""
    for dtype in DTYPES:
        target = results / f"cifar10-latency-{name}-{dtype}.json"
        runners = at_hand(dtype, device)
        if runners and not target.is_file():
            write_json(target, profiled(name, dtype, runners, work, pieces, device=device, toy=toy, brief=False))


def profiled(
    name: str, dtype: str, runners: Sequence[str], work: Path, pieces: Pieces, *, device: str, toy: bool, brief: bool
) -> dict[str, Any]:
    """The profile of one shape, dense and three quarters as wide, in ``runners``; WORK keeps what was finished.

    ``brief``: against the dense model in eager torch alone, a quarter of the seconds, and no parts.
    """
    run = compressed_run(name, work, pieces, device=device, toy=toy)
    batches = (1, 2) if toy else (BRIEF_BATCHES if brief else BATCHES)[name]
    reads = {runner_reads(runner) for runner in runners}
    if reads - {"model"}:
        amplified = name != DEFAULT and dtype != "fp32"  # over 20 steps, fresh weights amplify what is rounded
        _write(run, export={"loop_steps": 2, "loop_images": 2} if toy or amplified else {})
        trt = ["--trt"] if "engine" in reads else []
        opset = ["--opset", OPSET] if brief else []
        pieces.dtk("export", run, "--dtype", dtype, "--batch", f"1:{batches[-2]}:{batches[-1]}", *opset, *trt)
    pieces.dtk("run", _write(run, profile=_profile(dtype, runners, batches, device, toy, brief)))
    profile = read_json(run / "profile" / "profile.json")
    weights = "trained, less random channels" if name == DEFAULT else "random"
    return {"shape": name, "toy": toy, "weights": weights, "dtype": dtype, "profile": profile}


def compressed_run(name: str, work: Path, pieces: Pieces, *, device: str, toy: bool) -> Path:
    """The run of one shape at three quarters of its widths, made if it is not there."""
    run = work / "latency" / name
    pieces.dtk("compress", *_model(name, work, toy), "-o", run, *_narrower(toy), "--device", device)
    return run


def _model(name: str, work: Path, toy: bool) -> list[object]:
    if name == DEFAULT:
        return []
    dense = write_shape(name, work / "shapes" / name, toy)
    return [dense, "--data", _noise(dense, work / "shapes" / f"{name}.npz")]


def _narrower(toy: bool) -> list[object]:
    """Latency needs no images: any channels will do."""
    least = ["--target", "width=0.75", "--criterion", "random", "--no-recover", "--calibration-images", 2]
    return [*least, *(["--align", 4] if toy else [])]


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


def _profile(
    dtype: str, runners: Sequence[str], batches: tuple[int, ...], device: str, toy: bool, brief: bool
) -> dict[str, Any]:
    return {
        "runners": list(runners),
        "batches": list(batches[-1:] if toy else batches),
        "baseline": "torch" if toy or brief else "auto",
        "dtype": dtype,
        "device": device,
        "loop_steps": 2 if toy else 20 if brief else 50,
        "parts": not (toy or brief),
        "rounds": {"seconds": 0.1, "least": 6, "most": 6} if toy else {"seconds": 1, "least": 6} if brief else {},
    }


def _write(run: Path, **stages: dict[str, Any]) -> Path:
    """The run's recipe, once it holds these settings of ``stages``."""
    path = run / "recipe.yaml"
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(recipe | stages, sort_keys=False), encoding="utf-8")
    return path
