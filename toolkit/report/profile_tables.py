"""A profile as tables for the terminal: size, what the user had, latency, loops, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from toolkit.report.headline import launch_bound, refused, speed
from toolkit.report.words import sentence
from toolkit.report.words import speed as speed_words

SIZES = {"parameters": "params", "MACs": "macs", "bytes of weights": "weights_bytes"}
"""Rows of a table of sizes, and their names in profile.json."""


def table_of(title: str, *columns: str) -> Table:
    """An empty table whose columns but the first are aligned to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def profile(figures: dict[str, Any]) -> Iterator[Any]:
    """Size, latency and what of the MACs ratio became speed."""
    if "against" in figures:
        yield f"Instead of the dense model: {figures['against']}"
    yield sentence(speed({"profile": figures}))
    models, ratios = figures["models"], figures["ratios"]
    size = table_of("Size", "", "dense", "compressed", "ratio")
    for label, name in SIZES.items():
        size.add_row(label, *(f"{models[m][name]:,}" for m in ("dense", "compressed")), f"{ratios[name]:.2f}x")
    yield size
    yield from had(figures)
    columns = ("runner", "batch", "dense p50 ms", "compressed p50 ms", "speed-up (95 %)", "of the MACs ratio")
    table = table_of(f"Latency on {figures['device']}, interleaved", *columns, "over what you had (95 %)")
    for runner, measured in figures["runners"].items():
        for batch, cell in measured["latency"].items():
            p50 = [f"{cell[model]['p50_ms']:.2f}" for model in ("dense", "compressed")]
            share = "inconclusive" if _is_noise(cell["speedup"]) else f"{cell['realised_share']:.0%}"
            table.add_row(runner, batch, *p50, _ratio(cell["speedup"]), share, _ratio(cell.get("over_baseline")))
    yield table
    yield from refused(figures["runners"])
    yield from apart(figures["runners"])
    yield from bound(figures["runners"])
    yield from no_faster(figures)
    yield from loops(figures["runners"])
    yield from decoding(figures.get("decoder"))
    memory = table_of("Peak memory", "runner", "dense MiB", "compressed MiB")
    for runner, measured in figures["runners"].items():
        for where, name in (("process", "peak_rss_mib"), ("device", "peak_device_mib")):
            if name in measured["memory"]["dense"]:
                peaks = (f"{measured['memory'][m][name]:.0f}" for m in ("dense", "compressed"))
                memory.add_row(f"{runner}, {where}", *peaks)
    yield memory
    if "best" in figures:
        yield from chosen(figures["best"])


def chosen(choice: dict[str, Any]) -> Iterator[Any]:
    """What --best chose, and what it passed over."""
    place = f"{choice['runner']} ({choice['dtype']}), opset {choice['opset']}, batch {choice['batch']}"
    made = f"{choice['latency_ms']:.2f} ms a call, {choice['images_per_s']:.0f} images/s of one call"
    yield f"Best for {choice['goal']}: {place}: {made}; now in the recipe, for dtk export and dtk handoff."
    for better in choice["passed_over"]:
        yield f"{better['runner']} at batch {better['batch']} is faster and passed over: {better['why']}."


def _is_noise(faster: dict[str, Any]) -> bool:
    return bool(faster["verdict"] == "inconclusive")


def _ratio(faster: dict[str, Any] | None) -> str:
    if faster is None:
        return "-"
    return f"{faster['value']:.2f}x ({faster['low']:.2f}-{faster['high']:.2f})"


def had(figures: dict[str, Any]) -> Iterator[Any]:
    """The dense model in all that its user has without dtk, the fastest of each batch size marked."""
    if not figures.get("baselines"):
        return
    table = table_of("What you had: the dense model without dtk", "runner", "batch", "p50 ms", "images/s", "")
    for by_batch in figures["baselines"].values():
        for batch, measured in by_batch.items():
            for name, row in measured["rows"].items():
                if "refused" in row:
                    table.add_row(name, batch, "-", "-", row["refused"])
                    continue
                best = "the fastest" if name == measured["best"] else ""
                table.add_row(name, batch, f"{row['p50_ms']:.2f}", f"{row['images_per_s']:.0f}", best)
    yield table


def apart(runners: dict[str, Any]) -> Iterator[Any]:
    """What one call takes alone, many in a row, and the host until it returns: dense / compressed."""
    cells = [
        (runner, batch, cell)
        for runner, figures in runners.items()
        for batch, cell in figures["latency"].items()
        if "back_to_back" in cell
    ]
    if not cells:
        return
    table = table_of("One call, dense / compressed, ms", "runner", "batch", "alone", "in a row", "to enqueue")
    for runner, batch, cell in cells:
        times = [{which: cell[which]["p50_ms"] for which in ("dense", "compressed")}]
        times += [cell["back_to_back"], cell.get("enqueue_ms", {})]
        shown = [f"{one['dense']:.2f} / {one['compressed']:.2f}" if one else "-" for one in times]
        table.add_row(runner, batch, *shown)
    yield table


def bound(runners: dict[str, Any]) -> Iterator[Any]:
    """What keeps a small batch from gaining what the MACs promise."""
    names = launch_bound(runners)
    if names:
        why = "which is bound by launching work, not by arithmetic"
        yield f"{' and '.join(names)}: a smaller speed-up at the smallest batch, {why}."


def no_faster(figures: dict[str, Any]) -> Iterator[Any]:
    """The parts of the network that gained nothing, by what timed them."""
    timed = [figures.get("parts"), *(measured.get("parts") for measured in figures["runners"].values())]
    for parts in timed:
        if parts and parts["no_faster"]:
            yield f"No faster than dense in {parts['runner']}: {', '.join(parts['no_faster'])}."


def loops(runners: dict[str, Any]) -> Iterator[Any]:
    """Seconds per image over the whole sampling loop, if it was measured."""
    measured = {runner: measured_in["loop"] for runner, measured_in in runners.items() if "loop" in measured_in}
    if not measured:
        return
    columns = ("runner", "batch", "steps", "dense", "compressed", "speed-up", "outside the denoiser, a step")
    table = table_of("Whole sampling loop, s per image", *columns)
    for runner, loop in measured.items():
        seconds = [f"{loop[model]['seconds_per_image']:.3g}" for model in ("dense", "compressed")]
        faster = loop["speedup"]
        ratio = "inconclusive" if faster["verdict"] == "inconclusive" else f"{faster['value']:.2f}x"
        taken = " and ".join(dict.fromkeys(str(loop[key]) for key in ("steps", "compressed_steps") if key in loop))
        table.add_row(runner, str(loop["batch"]), taken, *seconds, ratio, outside(loop))
        if fused := loop.get("fused"):
            own_steps, seconds = str(loop["compressed_steps"]), ["", f"{fused['seconds_per_image']:.3g}"]
            table.add_row(f"{runner}, step graph", str(loop["batch"]), own_steps, *seconds, "", outside(fused))
    yield table


def decoding(figures: dict[str, Any] | None) -> Iterator[Any]:
    """What decoding takes beside the loop; nothing for a model of pixels."""
    if not figures:
        return
    dense, compressed = (f"{figures[model]['p50_ms'] / figures['batch']:.3g}" for model in ("dense", "compressed"))
    place = f"{figures['runner']}, {figures['dtype']}, batch {figures['batch']}"
    yield f"Decoder ({place}): {dense} ms an image, {compressed} compressed: {speed_words(figures['speedup'])}."
    for runner, share in figures.get("share", {}).items():
        of_each = f"{share['dense']:.1%} dense, {share['compressed']:.1%} compressed"
        yield f"Its share of loop and decoding in {runner}: {of_each}."


def outside(loop: dict[str, Any]) -> str:
    """What a loop takes besides its denoiser."""
    if "outside_share" not in loop:
        return "-"
    return f"{loop['outside_ms_per_step']:.2g} ms, {loop['outside_share']:.1%}"
