"""Which widths does this machine pad? Latency of a small UNet2DModel by its width, in any runner and precision.

    OMP_NUM_THREADS=1 python -m benchmarks.widths --runner onnxruntime,openvino,openvino:bf16

Networks of one level and random weights, every width a multiple of 8, each interleaved with the widest; on a busy
machine one thread is timed by the processor time it used. ``unit`` is the multiple that explains the latencies best,
as the planner finds it (toolkit/pruning/latency_cost.py). The same command resumes, from the user's cache.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.adapters.base import Constraints
from toolkit.adapters.inputs import input_specs
from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.models.build import built_config
from toolkit.pipeline.options import latency_settings
from toolkit.pruning.latency import latencies
from toolkit.pruning.latency_cost import UNITS, fit, rows_of
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.settings import LatencySettings

RESULTS = Path(__file__).parent / "results" / "widths.json"
WIDEST, STEP = 128, 8


def one_level(size: int) -> Prunable:
    """A network of one level, as wide as ``WIDEST``, on images of this size."""
    shape = {"sample_size": size, "block_out_channels": [WIDEST], "norm_num_groups": STEP, "layers_per_block": 1}
    kinds = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    return Prunable("UNet2DModel", built_config("UNet2DModel", shape | kinds), Constraints(align=STEP, least=1 / 16))


def measured(runner: str, size: int, batch: int, seconds: float, device: str) -> dict[str, Any]:
    """The latency of every width over the widest one's, and the unit and its rivals."""
    prunable = one_level(size)
    settings = LatencySettings(**latency_settings({"runner": runner, "batch": batch}), seconds=seconds)
    specs = input_specs("UNet2DModel", prunable.config)
    widths, dense = sorted(prunable.space)[:-1], prunable.space.dense_values
    with latencies("UNet2DModel", prunable.config, specs, settings, device) as table:
        timings = {values: table.measure(prunable.space.configure(values)) for values in widths}
    fractions = {values: timing.fraction for values, timing in timings.items()} | {dense: 1.0}
    misfits = {unit: fit(rows_of(prunable.space, unit), fractions)[1] for unit in UNITS}
    rows = [{"width": values[0]} | asdict(timing) for values, timing in timings.items()]
    return {"runner": runner, "unit": min(UNITS, key=misfits.__getitem__), "misfits": misfits, "rows": rows}


def main() -> None:
    options = arguments()
    facts = {"machine": machine(options.device), "versions": versions(), "batch": options.batch, "size": options.size}
    found = []
    for runner in options.runner.split(","):
        found.append(measured(runner, options.size, options.batch, options.seconds, options.device))
        write_json(options.output, facts | {"runners": found})
        shown(found[-1])


def shown(one: dict[str, Any]) -> None:
    """Each width with its share of the widest one's latency, and what the step to it costs a channel."""
    misfits = ", ".join(f"{unit}: {misfit:.3f}" for unit, misfit in one["misfits"].items())
    print(f"{one['runner']}: padded to multiples of {one['unit']} (misfit by multiple: {misfits})")
    fractions = np.array([row["fraction"] for row in one["rows"]] + [1.0])
    for row, fraction, step in zip(one["rows"], fractions, np.diff(fractions, prepend=0.0), strict=False):
        print(f"  {row['width']:4d} {fraction:.3f} of {WIDEST} (+{step:.3f}), {row['clock']} clock")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", default="onnxruntime", help="NAME or NAME:DTYPE, several by comma")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=16, help="height and width of the images")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn of measuring")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
