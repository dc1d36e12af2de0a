"""A run's figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from toolkit.report.headline import launch_bound, refused, speed
from toolkit.report.words import sentence, verdict

SIZES = {"parameters": "params", "MACs": "macs", "bytes of weights": "weights_bytes"}
"""Rows of a table of sizes, and their names in profile.json."""


def table_of(title: str, *columns: str) -> Table:
    """An empty table whose columns but the first are aligned to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def plan(facts: dict[str, Any]) -> Iterator[Any]:
    """Requested and achieved, and the widths of the levels."""
    dense, achieved = facts["dense"], facts["achieved"]
    table = table_of(f"Plan (requested: {facts['requested']['target']})", "", "dense", "compressed", "of dense")
    table.add_row("parameters", f"{dense['params']:,}", f"{achieved['params']:,}", f"{achieved['params_fraction']:.1%}")
    table.add_row("MACs", f"{dense['macs']:,}", f"{achieved['macs']:,}", f"{achieved['macs_fraction']:.1%}")
    for width in facts["widths"]:
        table.add_row(
            width["name"], str(width["dense"]), str(width["achieved"]), f"{width['achieved'] / width['dense']:.1%}"
        )
    latency = facts.get("latency")
    if latency:
        dtype = "" if latency["dtype"] == "fp32" else f":{latency['dtype']}"
        name = f"{latency['runner']}{dtype}, batch {latency['batch']}"
        table.add_row(name, f"{latency['dense_ms']:.3g} ms", f"{latency['ms']:.3g} ms", f"{latency['fraction']:.1%}")
    yield table
    if latency:
        how = "processor time, as the machine is too busy for the wall clock" if latency["clock"] == "processor" else ""
        interval = f"{latency['low']:.3f} to {latency['high']:.3f}"
        yield f"latency of dense: {latency['fraction']:.3f} ({interval}), interleaved{', ' if how else ''}{how}"
        yield from [latency["missed"]] if latency["missed"] else []
    yield from _levels(facts)
    yield f"configuration chosen by {facts['chosen_by']}"
    fit = facts.get("reconstruction")
    if fit:
        held = f"sliced {facts['held_out_loss']['one_shot']:.4f}, reconstructed {fit['held_out_loss']:.4f}"
        yield f"loss on held-out images: {held}{'' if fit['taken'] else ', which is not taken'}"
    stability = facts.get("stability")
    if stability:
        agreement = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in stability.items())
        yield f"agreement of the scores of two halves of the calibration images: {agreement} (1 is equal, 0 is chance)"


def _levels(facts: dict[str, Any]) -> Iterator[Any]:
    if not facts.get("macs_by_level"):  # a run of an earlier version
        return
    table = table_of("MACs by level, down and up", "", "dense", "compressed", "of dense")
    for name, macs in facts["macs_by_level"].items():
        table.add_row(name, f"{macs['dense']:,}", f"{macs['achieved']:,}", f"{macs['achieved'] / macs['dense']:.1%}")
    yield table


def recovery(result: dict[str, Any]) -> Iterator[Any]:
    """The last losses of recovery."""
    losses = ", ".join(f"{name} {value:.5f}" for name, value in result["losses"].items())
    yield f"Recovered in {result['steps']} steps: {losses}"
    if curve := result.get("held_out"):
        yield curve["verdict"]
    if taught := result.get("teaching"):
        yield (
            f"Taught to sample in {taught['sampling_steps']} steps what the dense model samples in "
            f"{taught['teacher_steps']} ({taught['method']}, {taught['steps']} training steps): "
            f"timesteps {', '.join(map(str, taught['timesteps']))}"
        )


def evaluation(metrics: dict[str, Any]) -> Iterator[Any]:
    """Distances to real images, and how close the compressed model is to the dense one."""
    distances, settings = metrics["frechet_distance"], metrics["settings"]
    dense = distances["dense"]
    sampler, taken = f"{settings['sampler']}, {settings['sampling_steps']} steps", metrics.get("compressed_steps")
    if taken not in (None, settings["sampling_steps"]):
        sampler += f", compressed {taken}"
    table = table_of(f"Quality ({dense['count']:,} samples, {sampler})", "", "dense", "compressed", "real against real")
    floor = f"{distances['floor']['value']:.3f}" if "floor" in distances else "-"
    table.add_row(dense["metric"], f"{dense['value']:.3f}", f"{distances['compressed']['value']:.3f}", floor)
    yield table
    if distances["excess_ratio"] is not None:
        yield f"distance beyond real against real: {distances['excess_ratio']:.2f} times the dense model's"
    pairs = metrics["pairs"]
    psnr = "equal images" if pairs["psnr_db"] is None else f"PSNR {pairs['psnr_db']:.1f} dB"
    yield f"pairs of the same noise: SSIM {pairs['ssim']:.3f}, {psnr}"
    yield from artefacts(metrics)
    if "controls" in metrics:
        yield f"control: {metrics['controls']['verdict']}"


def artefacts(metrics: dict[str, Any]) -> Iterator[Any]:
    """What was exported and judged, if anything was."""
    judged = metrics.get("artefacts")
    if not judged:
        return
    columns = ("artefact", metrics["frechet_distance"]["dense"]["metric"], "beyond real, of dense", "PSNR to torch")
    table = table_of("Deployed, from the same noise", *columns, "SSIM to dense")
    for name, found in judged.items():
        excess, pairs = found["excess_ratio"], found["pairs"]
        psnr = pairs["compressed"]["psnr_db"]
        table.add_row(
            name,
            f"{found['frechet_distance']['value']:.3f}",
            "-" if excess is None else f"{excess:.2f}x",
            "equal" if psnr is None else f"{psnr:.1f} dB",
            f"{pairs['dense']['ssim']:.3f}",
        )
    yield table


def parity(exported: dict[str, Any]) -> Iterator[Any]:
    """How far each export is from torch."""
    table = table_of("ONNX against torch", "", "relative error", "tolerance", "images after the whole loop")
    for model, rungs in exported["parity"].items():
        for dtype, found in rungs.items():
            if "not_run" in found:
                table.add_row(f"{model} {dtype}", found["not_run"], "", "")
                continue
            predictions, least = found["predictions"], found["loop"]["least_psnr_db"]
            error, tolerance = f"{predictions['worst']['relative_error']:.1e}", f"{predictions['tolerance']:.0e}"
            table.add_row(f"{model} {dtype}", error, tolerance, "equal" if least is None else f"{least:.0f} dB")
    for name, found in exported.get("runners", {}).items():
        least = found.get("least_psnr_db")
        images = found.get("not_run") or ("equal" if least is None else f"{least:.0f} dB")
        table.add_row(f"compressed in {name}", "", "", images)
    yield table
    yield from _opset(exported.get("opset", {}))
    yield from engines(exported.get("engines", {}))


def _opset(chosen: dict[str, Any]) -> Iterator[Any]:
    """How the opset was chosen, if it was measured."""
    if chosen.get("margin") is None:
        return
    refused = [f"{name} refuses {o}" for name, of in chosen["runners"].items() for o in of if "refused" in of[o]]
    yield "; ".join([f"opset {chosen['opset']}, {chosen['margin']:.2f} times as fast as the next", *refused])


def engines(built: dict[str, Any]) -> Iterator[Any]:
    """What TensorRT made of the ONNX files."""
    if not built:
        return
    table = table_of("TensorRT engines", "", "builder", "MiB", "build s", "weights in half precision")
    for model, engine in built.items():
        facts, precision = engine["facts"], engine["precision"] or {}
        half = f"{precision['typed_share']:.0%}" if "typed_share" in precision else "-"
        size = f"{engine['size_bytes'] / 2**20:.1f}"
        table.add_row(model, f"{facts['builder']} {facts['version']}", size, f"{engine['build_s']:.1f}", half)
    yield table
    yield from {engine["not_run"] for engine in built.values() if engine.get("not_run")}


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
        for batch, found in by_batch.items():
            for name, row in found["rows"].items():
                if "refused" in row:
                    table.add_row(name, batch, "-", "-", row["refused"])
                    continue
                best = "the fastest" if name == found["best"] else ""
                table.add_row(name, batch, f"{row['p50_ms']:.2f}", f"{row['images_per_s']:.0f}", best)
    yield table


def apart(runners: dict[str, Any]) -> Iterator[Any]:
    """What one call takes alone, many in a row, and the host until it returns: dense / compressed."""
    cells = [
        (runner, batch, cell)
        for runner, found in runners.items()
        for batch, cell in found["latency"].items()
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
    timed = [figures.get("parts"), *(found.get("parts") for found in figures["runners"].values())]
    for parts in timed:
        if parts and parts["no_faster"]:
            yield f"No faster than dense in {parts['runner']}: {', '.join(parts['no_faster'])}."


def loops(runners: dict[str, Any]) -> Iterator[Any]:
    """Seconds per image over the whole sampling loop, if it was measured."""
    measured = {runner: found["loop"] for runner, found in runners.items() if "loop" in found}
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


def outside(loop: dict[str, Any]) -> str:
    """What a loop takes besides its denoiser."""
    if "outside_share" not in loop:
        return "-"
    return f"{loop['outside_ms_per_step']:.2g} ms, {loop['outside_share']:.1%}"


def verified(found: dict[str, Any]) -> Iterator[Any]:
    """The answer of a verification in one line, for a log."""
    yield verdict(found)


def handed(manifest: dict[str, Any]) -> Iterator[Any]:
    """What a server gets."""
    yield f"Model repository for {manifest['container']}: `dtk serve RUN` runs it here."


STAGES = {
    "prune": plan,
    "recover": recovery,
    "evaluate": evaluation,
    "export": parity,
    "profile": profile,
    "verify": verified,
    "handoff": handed,
}


def report(value: dict[str, Any]) -> Iterator[Any]:
    """Every finished stage's table."""
    for stage, found in value["stages"].items():
        yield from STAGES[stage](found)
