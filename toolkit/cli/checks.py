"""What was checked, for the terminal: the installation, and profiles against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from toolkit.cli.tables import profile

MARKS = {"fits": ("fits", "green"), "note": ("note", "yellow"), "conflict": ("CONFLICT", "bold red")}


def doctor(found: dict[str, Any]) -> Iterator[Any]:
    """What fits and what does not, then which runner would run on which device."""
    table = Table("", "", "found", title="Installation", title_justify="left")
    for finding in found["findings"]:
        told = finding["found"] + (f"\n-> {finding['do']}" if finding["do"] else "")
        table.add_row(finding["name"], Text(*MARKS[finding["status"]]), Text(told))
    yield table
    for device, reasons in found["runners"].items():
        table = Table("runner", "would it run?", title=f"Runners on {device}", title_justify="left")
        for name, reason in reasons.items():
            table.add_row(name, Text("yes", "green") if reason is None else Text(f"no: {reason}"))
        yield table
    yield "Nothing is in conflict." if found["ok"] else "What is in conflict above has to be mended first."


def runs(found: dict[str, Any]) -> Iterator[Any]:
    """The profiles of several runs side by side, with what keeps them from being compared plainly."""
    yield "\n".join(f"{number}: {run['name']} ({_machine(run['machine'])})" for number, run in _numbered(found["runs"]))
    size = Table("", *(str(number) for number, _ in _numbered(found["runs"])), title="Size", title_justify="left")
    for name in ("params", "macs", "weights_bytes"):
        size.add_row(name, *(f"{run[name]:,}" for run in found["runs"]))
    yield size
    columns = [f"{number}: ms (speed-up over its dense)" for number, _ in _numbered(found["runs"])]
    table = Table("p50 of", "batch", *columns, title="Latency of the compressed models", title_justify="left")
    for row in found["rows"]:
        table.add_row(row["runner"], str(row["batch"]), *(_latency(cell) for cell in row["runs"]))
    yield table
    yield from (f"note: {note}" for note in found["notes"])


def _numbered(found: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(found, start=1))


def _machine(machine: dict[str, Any]) -> str:
    return str(machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores")


def _latency(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    faster = "inconclusive" if cell["verdict"] == "inconclusive" else f"{cell['value']:.2f}x"
    return f"{cell['compressed_ms']:.2f} ({faster})"


def against(figures: dict[str, Any]) -> Iterator[Any]:
    """A profile with another model in the dense one's place."""
    yield f"In the place of the dense model: {figures['against']}"
    yield from profile(figures)
