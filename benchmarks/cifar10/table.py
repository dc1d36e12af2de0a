"""The study's results as Markdown tables; what has no result says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cifar10.rows import ROWS
from benchmarks.cifar10.shapes import SHAPES
from toolkit.core.files import read_json

MISSING = "not measured"


def dense_table(results: Path) -> Iterator[str]:
    """The dense model's training."""
    yield "| dense model, steps | images per second | noise loss | distance | real against real |"
    yield "| --- " * 5 + "|"
    path = results / "cifar10-dense.json"
    if not path.is_file():
        yield f"| {MISSING} |" + " |" * 4
        return
    found = read_json(path)
    for one in found["points"]:
        floor = "-" if one["floor"] is None else f"{one['floor']:.3f}"
        speed, label = f"{one['images_per_s']:.0f}", str(one["steps"]) + (" (toy)" if found["toy"] else "")
        yield f"| {label} | {speed} | {one['noise_loss']:.4f} | {one['distance']:.3f} | {floor} |"


def row_table(results: Path) -> Iterator[str]:
    """Quality and size by row, the mean over the seeds that have run."""
    yield (
        "| row | seeds | steps | params M | MACs G | distance | dense's | dense minus row, blocks, 95 % "
        "| real against real | SSIM to dense |"
    )
    yield "| --- " * 10 + "|"
    for name in ROWS:
        found = [read_json(path) for path in sorted(results.glob(f"cifar10-row-{name}-seed*.json"))]
        yield f"| {name} | {_row(found)} |"


def _row(found: list[dict[str, Any]]) -> str:
    if not found:
        return " | ".join([MISSING] + [""] * 8)
    quality = [one["evaluate"]["frechet_distance"] for one in found]
    floor = f"{mean(q['floor']['value'] for q in quality):.3f}" if all("floor" in q for q in quality) else "-"
    achieved = found[0]["plan"]["achieved"]
    cells = [
        str(len(found)) + (" (toy)" if found[0]["toy"] else ""),
        "/".join(sorted({str(one["steps"]) for one in found})),
        f"{achieved['params'] / 1e6:.2f}",
        f"{achieved['macs'] / 1e9:.3f}",
        f"{mean(q['compressed']['value'] for q in quality):.3f}",
        f"{mean(q['dense']['value'] for q in quality):.3f}",
        "; ".join(_paired(q) for q in quality),
        floor,
        f"{mean(one['evaluate']['pairs']['ssim'] for one in found):.3f}",
    ]
    return " | ".join(cells)


def _paired(quality: dict[str, Any]) -> str:
    """The interval of the paired difference; it is of blocks, whose distances are larger than those of all images."""
    found = (quality.get("intervals") or {}).get("dense_minus_compressed")  # few images make no blocks
    return f"{found['low']:.3f} to {found['high']:.3f}" if found else "-"


def latency_table(results: Path) -> Iterator[str]:
    """Speed-up and realised share by shape, runner and batch."""
    yield "| shape | dtype | runner | batch | dense ms | compressed ms | speed-up | of the MACs ratio |"
    yield "| --- " * 8 + "|"
    for name in SHAPES:
        files = sorted(results.glob(f"cifar10-latency-{name}-*.json"))
        if not files:
            yield f"| {name} | {MISSING} |" + " |" * 6
        for path in files:
            yield from _cells(name, read_json(path))


def _cells(name: str, result: dict[str, Any]) -> Iterator[str]:
    label = name + (" (toy)" if result["toy"] else "")
    macs = result["profile"]["ratios"]["macs"]
    for runner, measured in result["profile"]["runners"].items():
        loop = measured["loop"]
        calls = {**measured["latency"], f"{loop['batch']}, loop of {loop['steps']}": loop}
        for batch, cell in calls.items():
            faster, times = cell["speedup"], [f"{cell[which]['p50_ms']:.3g}" for which in ("dense", "compressed")]
            told = f"{faster['value']:.2f} ({faster['low']:.2f}-{faster['high']:.2f})"
            share = f"{faster['value'] / macs:.0%}"
            yield f"| {label} | {result['dtype']} | {runner} | {batch} | {' | '.join(times)} | {told} | {share} |"


def cost_table(results: Path) -> Iterator[str]:
    """How many times as fast as a plain loop scoring and recovery are."""
    yield "| cost | of dtk's | batch | times as fast as a plain loop |"
    yield "| --- " * 4 + "|"
    for name, kinds, batch in (("scoring", "dtk", "images"), ("recovery", "mixes", "batch")):
        path = results / f"cifar10-cost-{name}.json"
        found = read_json(path) if path.is_file() else {kinds: {}}
        if not found[kinds]:
            yield f"| {name} | {MISSING} |" + " |" * 2
        for kind, measured in found[kinds].items():
            faster = measured["times_as_fast"]
            told = f"{faster['value']:.2f} ({faster['low']:.2f}-{faster['high']:.2f})"
            yield f"| {name} | {kind} | {found[batch]} | {told} |"
