"""The results of all pieces as Markdown; what was skipped or failed says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.pieces import numbered
from toolkit.core.files import read_json

HEAD = "| shape | dtype | runner | batch | dense ms | compressed ms | speed-up | against dense in eager torch |"


def lines(results: Path) -> Iterator[str]:
    """One table of latencies, then a line for every other piece."""
    found = {
        number: (piece.name, read_json(path) if (path := results / f"{piece.file(number)}.json").is_file() else None)
        for number, piece in numbered().items()
    }
    yield from (HEAD, "| --- " * 8 + "|")
    for _, record in found.values():
        if record and "profile" in record:
            yield from _cells(record)
        if record and "trt86" in record:
            yield from _trt86(record)
    yield ""
    for number, (name, record) in found.items():
        yield f"{number}. {name}: {_said(record)}"


def _cells(record: dict[str, Any]) -> Iterator[str]:
    shape = record["shape"] + (" (toy)" if record["toy"] else "")
    for runner, measured in record["profile"]["runners"].items():
        for batch, cell in measured["latency"].items():
            times = [f"{cell[which]['p50_ms']:.3g}" for which in ("dense", "compressed")]
            ratios = [_ratio(cell["speedup"]), _ratio(cell.get("over_baseline"))]
            yield f"| {' | '.join([shape, record['dtype'], runner, batch, *times, *ratios])} |"


def _trt86(record: dict[str, Any]) -> Iterator[str]:
    shape = record["shape"] + (" (toy)" if record["toy"] else "")
    for batch, cell in record["trt86"].items():
        dense, compressed = (cell[which]["graph"]["median_ms"] for which in ("dense", "compressed"))
        told = f"{dense:.3g} | {compressed:.3g} | {dense / compressed:.2f} | -"
        yield f"| {shape} | fp16 | TensorRT 8.6.0, CUDA graph | {batch} | {told} |"


def _ratio(found: dict[str, Any] | None) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else "-"


def _said(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not run"
    if "failed" in record:
        return f"failed ({record['failed']}): {record['log'][-1] if record['log'] else 'no word'}"
    if "skipped" in record:
        return f"skipped: {record['skipped']}"
    told = record.get("told")
    return f"{record['seconds']:g} s" + (f", {told[-1]}" if told else "")
