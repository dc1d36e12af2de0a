"""What does a compressed model make on this machine, in every runner and precision, and what did its user have before?

    python benchmarks/speed.py RUN --output benchmarks/results/speed.json

RUN is a run of the embedded default, such as `dtk compress --target macs=0.57 -o RUN` leaves. Its compressed model is
measured in every runner and precision of this machine, in turns with the dense model in the same one and with dense
eager torch in float32, at batch 16; beside it a UNet2DModel of the CIFAR-10 shape (128, 256, 256, 256) and the same
at width 0.75, both with random weights, at batch 4. Once with one thread and once with two, each in a process of its
own. What was measured is kept in the work folder: the same command resumes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cifar10.shapes import write_shape
from benchmarks.record import named
from toolkit import compress, open_run
from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.runners.base import known_runners, open_spec, parse_runner, runner_reads, unavailable

BATCHES = {"default": 16, "cifar10-32": 4}
LOOP_STEPS = {"default": 20, "cifar10-32": 0}  # what is asked of the large shape is its call
HAD = "torch:fp32"


def main(arguments: list[str] | None = None) -> None:
    options = _arguments(arguments)
    if options.threads is None:
        return _in_processes(options)
    torch.set_num_threads(options.threads)
    _measure(options)
    return None


def _in_processes(options: argparse.Namespace) -> None:
    """One process per number of threads: torch, OpenMP and the runtimes read it when they start."""
    work = options.work or Path(tempfile.mkdtemp(prefix="dtk-speed-"))
    shape = _shape_run(work, options.toy)
    models = {}
    for threads in options.of_threads:
        command = [sys.executable, "-m", "benchmarks.speed", str(options.run), "--threads", str(threads)]
        command += ["--work", str(work), "--seconds", str(options.seconds), *(["--toy"] if options.toy else [])]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        models[str(threads)] = read_json(work / f"threads-{threads}.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = {"machine": machine(device), "versions": versions(), "toy": options.toy, "shape": str(shape.name)}
    write_json(options.output, facts | {"threads": models})
    for line in _table(models):
        print(line)


def _shape_run(work: Path, toy: bool) -> Path:
    """The CIFAR-10 shape at width 0.75 as a run; latency needs no training."""
    dense, run = write_shape("cifar10-32", work / "shapes" / "cifar10-32", toy), work / "cifar10-32"
    size = read_json(dense / "unet" / "config.json")["sample_size"]
    images = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), dtype=np.uint8)
    plan: dict[str, Any] = {"target": "width=0.75", "criterion": "random", "calibration_images": 2}
    compress(str(dense), data=images, out=run, recover=False, **(plan | ({"align": 4} if toy else {})))
    return run


def _measure(options: argparse.Namespace) -> None:
    found = {}
    for name, run in {"default": options.run, "cifar10-32": options.work / "cifar10-32"}.items():
        opened, batch = open_run(run), BATCHES[name]
        opened.export(batch=f"1:{batch}:{batch}", components=False, loop_steps=2, loop_images=1)
        profile = opened.profile(
            runners=_specs(run),
            baseline=HAD,
            batches=(batch,),
            loop_steps=2 if options.toy else LOOP_STEPS[name],
            rounds={"seconds": options.seconds, "least": 6 if options.toy else 31},
        )
        found[name] = named(profile.to_json())
    write_json(options.work / f"threads-{options.threads}.json", found)


def _specs(run: Path) -> tuple[str, ...]:
    """Every runner that computes here, in each precision that it takes of the models and files at hand."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    onnx = run / "export" / "onnx" / "compressed.onnx"
    specs = []
    for name in known_runners():
        if unavailable(name, device) or runner_reads(name) == "engine":
            continue
        bf16 = name == "openvino" or (name in ("compile", "torch") and _has_bf16(device))
        every = ("fp32", "bf16") if bf16 else ("fp32",)
        specs += [f"{name}:{dtype}" for dtype in every if runner_reads(name) == "model" or _opens(name, dtype, onnx)]
    return tuple(specs)


def _has_bf16(device: str) -> bool:
    """Whether torch has bfloat16 kernels here; without them nobody would serve in it."""
    return device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _opens(name: str, dtype: str, onnx: Path) -> bool:
    try:
        open_spec(parse_runner(f"{name}:{dtype}"), onnx).close()
    except Exception as error:  # such as bfloat16 on a processor without it
        print(f"{name}:{dtype} is left out: {error}", file=sys.stderr)
        return False
    return True


def _table(models: dict[str, Any]) -> list[str]:
    lines = [
        "| threads | model | runner | compressed ms | of dense (95 %) | of the MACs ratio | over dense torch eager |"
    ]
    lines.append("| --- " * 7 + "|")
    for threads, found in models.items():
        for model, profile in found.items():
            for runner, measured in profile["runners"].items():
                for cell in measured["latency"].values():
                    faster, over = cell["speedup"], cell["over_baseline"]
                    interval = f"{faster['value']:.2f} ({faster['low']:.2f}-{faster['high']:.2f})"
                    figures = f"{cell['compressed']['p50_ms']:.2f} | {interval} | {cell['realised_share']:.0%}"
                    lines.append(f"| {threads} | {model} | {runner} | {figures} | {over['value']:.2f} |")
    return lines


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of the embedded default")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speed.json"))
    parser.add_argument("--work", type=Path, help="where the shape, its run and what was measured lie")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each comparison")
    parser.add_argument("--of-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, help="measure in this process with so many threads")
    parser.add_argument("--toy", action="store_true", help="a small shape and few rounds: that it runs, no figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
