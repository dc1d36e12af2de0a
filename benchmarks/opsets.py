"""What does the ONNX opset cost or win on each runner at hand?

    python benchmarks/opsets.py [MODEL] --output benchmarks/results/opsets.json

One model is exported to each opset: 18 (norms in parts), 21 (GroupNormalization), 23 (Attention as well). Each is
measured in turns with 21 on each runner that reads ONNX and is available here; its figure is the median of the paired
ratios with an interval, above 1 where it is faster than 21. The count of nodes says what the form of the graph is.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch

from exporters.config import NEWEST_OPSET, OLDEST_OPSET
from exporters.onnx import export_onnx
from profiles.config import Rounds
from profiles.latency import clock_of, interleave, speedup
from toolkit import models
from toolkit.conditioner import context_tokens
from toolkit.denoiser_inputs import example_inputs, input_specs
from toolkit.environment import machine, versions
from toolkit.files import write_json
from toolkit.runners.registry import known_runners, open_runner, runner_reads, unavailable

AGAINST = 21
OPSETS = (OLDEST_OPSET, AGAINST, NEWEST_OPSET)


def main() -> None:
    options = arguments()
    folder = models.find(options.model)
    specs = input_specs(folder.class_name, folder.config, tokens=context_tokens(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, Any] = {
        "machine": machine(device),
        "versions": versions(),
        "model": options.model or "the embedded default",
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "against_opset": AGAINST,
        "batch": options.batch,
    }
    with tempfile.TemporaryDirectory() as place:
        files = {opset: Path(place) / f"{opset}.onnx" for opset in OPSETS}
        for opset, path in files.items():
            export_onnx(models.load_denoiser(folder), specs, path, dtype=options.dtype, opset=opset)
        results["nodes"] = {str(opset): len(onnx.load(path).graph.node) for opset, path in files.items()}
        results["runners"] = {name: on_runner(name, device, files, specs, options) for name in onnx_runners()}
    write_json(options.output, results)
    print(options.output.read_text())


def onnx_runners() -> list[str]:
    return [name for name in known_runners() if runner_reads(name) == "onnx"]


def on_runner(name: str, device: str, files: dict[int, Path], specs: Any, options: argparse.Namespace) -> Any:
    if reason := unavailable(name, device):
        return {"not_measured": reason}
    inputs = {key: value.to(device) for key, value in example_inputs(specs, options.batch).items()}
    found = {}
    for opset in OPSETS:
        with (
            closing(open_runner(name, files[AGAINST], device=device)) as base,
            closing(open_runner(name, files[opset], device=device)) as other,
        ):
            rounds = Rounds(seconds=options.seconds)
            times = interleave(lambda: base(**inputs), lambda: other(**inputs), clock_of(device), rounds)
        found[str(opset)] = {"rounds": len(times[0])} | asdict(speedup(*times))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a diffusers folder; default: the embedded model")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each comparison")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/opsets.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
