"""What was checked, for the terminal: the installation, and runs against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

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
