"""What does the ONNX opset cost or win on each runner at hand?

    python benchmarks/opsets.py [MODEL] --output benchmarks/results/opsets.json

One model is exported to each opset: 18 (norms in parts), 21 (GroupNormalization), 23 (Attention as well). Each is
measured interleaved with 21 on each runner that reads ONNX and is available here; its figure is the median of the
paired ratios with an interval, above 1 if it is faster than 21. The count of nodes says what the form of the graph is.
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

from exporters.onnx import export_onnx
from exporters.settings import NEWEST_OPSET, OLDEST_OPSET
from profiles.latency import clock_of, interleave
from profiles.settings import Rounds
from profiles.speedup import speedup
from toolkit.adapters.inputs import example_inputs
from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.models.build import load_denoiser
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import find_model
from toolkit.runners.base import known_runners, open_runner, runner_reads, unavailable

AGAINST = 21
OPSETS = (OLDEST_OPSET, AGAINST, NEWEST_OPSET)


def main() -> None:
    options = arguments()
    folder = find_model(options.model)
    specs = denoiser_inputs(folder)
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
            export_onnx(load_denoiser(folder), specs, path, dtype=options.dtype, opset=opset)
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
            times = interleave((lambda: base(**inputs), lambda: other(**inputs)), clock_of(device), rounds)
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
