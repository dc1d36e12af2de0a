"""The pieces in their order: doctor and tests, latency of every shape and runner, TensorRT, training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cifar10.latency import DEFAULT, profiled
from benchmarks.cifar10.pieces import Pieces
from benchmarks.cifar10.shapes import SHAPES
from toolkit.core.environment import resolve_device
from toolkit.core.files import read_json
from toolkit.runners.base import unavailable

ROOT = Path(__file__).parents[2]
Found = dict[str, Any]
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name: dtype, runners; on a processor only what is float32
    "bf16": ("bf16", ("torch", "cudagraph")),
    "fp16-onnxruntime": ("fp16", ("onnxruntime",)),
    "bf16-compile": ("bf16", ("compile",)),
    "fp32": ("fp32", ("torch", "onnxruntime")),
}
ENGINES = ("tensorrt", "tensorrt-cudagraph")
TRAINING = {"dense": 15_000, "diff-pruning-0.05": 2_000, "dtk": 2_000, "random": 2_000}
"""The dense model and rows of the CIFAR-10 study, with steps that fit one loan of a machine."""


@dataclass(frozen=True)
class Study:
    """Where a piece works, for how long, and at what size."""

    work: Path
    results: Path
    minutes: float
    toy: bool

    @property
    def device(self) -> str:
        return resolve_device("auto")


@dataclass(frozen=True)
class Piece:
    """One numbered piece: ``do`` returns what was found, to be kept, or raises SystemExit(75) when its time ends."""

    name: str
    do: Callable[[Study], Found]

    def file(self, number: int) -> str:
        """The name of its result, without an ending."""
        return f"gpu-{number:02}-{self.name}"


def numbered() -> Mapping[int, Piece]:
    """All pieces by number."""
    from benchmarks.gpu.trt86 import measure as trt86

    shapes = (DEFAULT, *SHAPES)
    pieces = [Piece("doctor", doctor), Piece("tests", gpu_tests)]
    pieces += [Piece(f"{shape}-tensorrt", partial(tensorrt, shape)) for shape in shapes]
    pieces += [Piece(f"{shape}-{group}", partial(latency, shape, group)) for group in GROUPS for shape in shapes]
    pieces += [Piece(f"{shape}-trt86", partial(trt86, shape)) for shape in shapes]
    pieces += [Piece(f"train-{name}", partial(train, name)) for name in TRAINING]
    return dict(enumerate(pieces, start=1))


def file_of(name: str) -> str:
    """The name of a piece's result, without an ending."""
    return next(piece.file(number) for number, piece in numbered().items() if piece.name == name)


def doctor(study: Study) -> Found:
    """What `dtk doctor` finds; a conflict is a finding, no failure."""
    done = subprocess.run([sys.executable, "-m", "toolkit", "doctor", "--json"], capture_output=True, text=True)
    return {"doctor": json.loads(done.stdout)}


def gpu_tests(study: Study) -> Found:
    """The tests that need a GPU; without one they are skipped and say so."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rsfE", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60 * study.minutes)
    return {"code": done.returncode, "told": done.stdout.strip().splitlines()[-30:]}


def latency(shape: str, group: str, study: Study) -> Found:
    """Dense and compressed in the torch runners or ONNX Runtime, in one precision."""
    dtype, runners = GROUPS[group]
    missing = {runner: unavailable(runner, study.device) for runner in runners}
    at_hand = [runner for runner, reason in missing.items() if reason is None]
    if (study.device == "cpu" and dtype != "fp32") or not at_hand:
        return {"skipped": "half precision is a GPU's business" if at_hand else missing}
    return _profiled(shape, dtype, at_hand, study) | {"missing": {name: why for name, why in missing.items() if why}}


def tensorrt(shape: str, study: Study) -> Found:
    """Dense and compressed in TensorRT 10 or 11, or in TensorRT for RTX where it runs on this GPU, in fp16."""
    reason = unavailable("tensorrt", study.device)
    return {"skipped": reason} if reason else _profiled(shape, "fp16", ENGINES, study)


def _profiled(shape: str, dtype: str, runners: tuple[str, ...] | list[str], study: Study) -> Found:
    pieces = Pieces(study.minutes)
    return profiled(shape, dtype, runners, study.work, pieces, device=study.device, toy=study.toy, brief=True)


def train(name: str, study: Study) -> Found:
    """The CIFAR-10 study's dense model, or one of its rows; wants `python -m benchmarks.cifar10 prepare` before."""
    work = study.work / "cifar10"
    if not (work / "data" / "train.npz").is_file():
        return {"skipped": f"no data in {work}: python -m benchmarks.cifar10 prepare IMAGES RESNET --work {work}"}
    steps = 1 if study.toy else TRAINING[name]
    command = ["dense", "--every", str(steps)] if name == "dense" else ["row", name]
    options = ["--steps", str(steps), "--work", str(work), "--results", str(study.results)]
    options += ["--minutes", f"{study.minutes:.2f}", *(["--toy"] if study.toy else [])]
    done = subprocess.run([sys.executable, "-m", "benchmarks.cifar10", *command, *options])
    if done.returncode:
        raise SystemExit(done.returncode)
    file = "cifar10-dense.json" if name == "dense" else f"cifar10-row-{name}-seed0.json"
    return {"file": file, "found": read_json(study.results / file)}
