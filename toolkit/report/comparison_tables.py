"""Comparisons as tables: runs side by side, a sweep's points, and an installation's findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from toolkit.report.profile_tables import SIZES, table_of

MARKS = {"fits": ("fits", "green"), "note": ("note", "yellow"), "conflict": ("CONFLICT", "bold red")}


def doctor(diagnosis: dict[str, Any]) -> Iterator[Any]:
    """What fits and what does not, then which runner would run on which device."""
    table = Table("", "", "found", title="Installation", title_justify="left")
    for finding in diagnosis["findings"]:
        text = finding["found"] + (f"\n-> {finding['do']}" if finding["do"] else "")
        table.add_row(finding["name"], Text(*MARKS[finding["status"]]), Text(text))
    yield table
    for device, reasons in diagnosis["runners"].items():
        table = Table("runner", "runs here", title=f"Runners on {device}", title_justify="left")
        for name, reason in reasons.items():
            table.add_row(name, Text("yes", "green") if reason is None else Text(f"no: {reason}"))
        yield table
    yield "Nothing is in conflict." if diagnosis["ok"] else "Fix the conflicts above first."


def runs(compared: dict[str, Any]) -> Iterator[Any]:
    """The profiles of several runs side by side, with what keeps them from being compared plainly."""
    yield "\n".join(
        f"{number}: {run['name']} ({_machine(run['machine'])})" for number, run in _numbered(compared["runs"])
    )
    size = Table("", *(str(number) for number, _ in _numbered(compared["runs"])), title="Size", title_justify="left")
    for label, name in SIZES.items():
        size.add_row(label, *(f"{run[name]:,}" for run in compared["runs"]))
    yield size
    columns = [f"{number}: ms (speed-up over its dense)" for number, _ in _numbered(compared["runs"])]
    table = Table("runner", "batch", *columns, title="Latency of the compressed models (p50)", title_justify="left")
    for row in compared["rows"]:
        table.add_row(row["runner"], str(row["batch"]), *(_latency(cell) for cell in row["runs"]))
    yield table
    yield from (f"note: {note}" for note in compared["notes"])
    yield _most_images(compared)


def _most_images(compared: dict[str, Any]) -> str:
    """The run whose best cell makes the most images per second; there is no interval between runs."""
    cells = [
        (row["batch"] / cell["compressed_ms"] * 1e3, run["name"], f"{row['runner']} at batch {row['batch']}")
        for row in compared["rows"]
        for run, cell in zip(compared["runs"], row["runs"], strict=True)
        if cell
    ]
    images_per_s, name, where = max(cells)
    return f"Most images per second: {name}, {images_per_s:,.0f} in {where}."


def _numbered(runs: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(runs, start=1))


def _machine(machine: dict[str, Any]) -> str:
    return str(machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores")


def _latency(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    faster = "inconclusive" if cell["verdict"] == "inconclusive" else f"{cell['value']:.2f}x"
    return f"{cell['compressed_ms']:.2f} ({faster})"


def evaluations(compared: dict[str, Any]) -> Iterator[Any]:
    """Each metric of several compressed models, and in brackets how far it is from the first one's."""
    runs = [run["name"] for run in compared["runs"]]
    table = table_of("Quality of the compressed models", "", *runs, "images")
    for row in compared["rows"]:
        values = [f"{value:.3f}" for value in row["values"]]
        others = [f"{value} ({gap:+.3f})" for value, gap in zip(values[1:], row["differences"], strict=True)]
        table.add_row(row["metric"], values[0], *others, f"{row['count']:,}")
    sampled = [f"{run['sampler']}, {run['sampling_steps']}" for run in compared["runs"]]
    table.add_row("sampler, steps", *sampled, "")
    yield table
    first = compared["rows"][0]
    yield f"Closest to real images by {first['metric']}: {runs[first['values'].index(min(first['values']))]}."


def points(value: dict[str, Any]) -> Iterator[Any]:
    """Every point by its speed, and what makes those that are dominated not worth having."""
    measured = f"{value['latency']['runner']}, batch {value['latency']['batch']}"
    columns = ("", "images/s, of dense", value["metric"], "dominated by")
    table = Table(*columns, title=f"Quality against images per second ({measured})", title_justify="left")
    for point in sorted(value["points"], key=lambda point: point["speed"]):
        interval = "" if point["kind"] == "dense" else f" ({point['speed_low']:.2f}-{point['speed_high']:.2f})"
        speed = f"{point['speed']:.2f}{interval}"
        table.add_row(point["name"], speed, f"{point['distance']:.3f}", point["dominated_by"] or "-")
    yield table
    yield from (f"left out: {name}: {reason}" for name, reason in value["refused"].items())
    best = [point["name"] for point in value["points"] if not point["dominated_by"]]
    yield f"No other point is both faster and better than: {', '.join(best)}."


def either(compared: dict[str, Any]) -> Iterator[Any]:
    """Profiles or evaluations of several runs."""
    return evaluations(compared) if "metric" in next(iter(compared["rows"]), {}) else runs(compared)


def imported(made: dict[str, Any]) -> Iterator[str]:
    """What a checkpoint became."""
    side = made["sample_size"]
    yield f"{made['layout']}: a {made['class']} of {made['params']:,} parameters for {side}x{side}"
    yield f"Written: {made['folder']}"


def carried(made: dict[str, Any]) -> Iterator[str]:
    """What of an add-on was sliced, left as it is, and left out."""
    yield f"{made['kind']}: {made['sliced']:,} layers sliced, {made['unchanged']:,} unchanged"
    if made["time_error"]:
        yield f"The time embedding was fitted to a narrower one: {made['time_error']:.1g} relative error."
    if made["removed"]:
        yield f"{len(made['removed']):,} layers are left out:"
        yield from (f"  {layer}: {reason}" for layer, reason in made["removed"].items())
    yield f"Written: {made['file']}"


def published(made: dict[str, Any]) -> Iterator[str]:
    """Where the card is, and the model."""
    if made["licence"] is None:
        yield "note: no licence is known; name it with --license"
    yield f"Written: {made['card']}"
    yield f"Uploaded: {made['url']}" if made["url"] else "Nothing was uploaded: no repository was named."


def known(names: dict[str, str]) -> Iterator[str]:
    """A line per name."""
    yield from (f"{name:<22} {description}" for name, description in names.items())
