"""A run's figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from toolkit.report.profile_tables import profile, table_of
from toolkit.report.words import verdict

JUDGED_BY = {"to_dense": "the dense decoder's", "to_images": "the images themselves"}


def plan(facts: dict[str, Any], of: str = "Plan") -> Iterator[Any]:
    """Requested and achieved, and the widths of the levels; of the decoder as well if it was planned with them."""
    dense, achieved = facts["dense"], facts["achieved"]
    table = table_of(f"{of} (requested: {facts['requested']['target']})", "", "dense", "compressed", "of dense")
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
    if "decoder" in facts:
        yield from plan(facts["decoder"], "Decoder")
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


def decoder(result: dict[str, Any]) -> Iterator[Any]:
    """The decoder's plan, and how far its images are from the dense one's and from those that were encoded."""
    yield from plan(result, "Decoder")
    for made, errors in result["errors"].items():
        near = [f"{errors[to]:.1f} dB to {words}" for to, words in JUDGED_BY.items() if to in errors]
        yield f"decoder, {made.replace('_', '-')}: held-out images, PSNR {', '.join(near)}"


def recovery(result: dict[str, Any]) -> Iterator[Any]:
    """The last losses of recovery."""
    if result["steps"]:
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
        yield f"excess over the distance between real images: {distances['excess_ratio']:.2f} times the dense model's"
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
    columns = (
        "artefact",
        metrics["frechet_distance"]["dense"]["metric"],
        "excess over real, of dense",
        "PSNR to torch",
    )
    table = table_of("Deployed, from the same noise", *columns, "SSIM to dense")
    for name, figures in judged.items():
        excess, pairs = figures["excess_ratio"], figures["pairs"]
        psnr = pairs["compressed"]["psnr_db"]
        table.add_row(
            name,
            f"{figures['frechet_distance']['value']:.3f}",
            "-" if excess is None else f"{excess:.2f}x",
            "equal" if psnr is None else f"{psnr:.1f} dB",
            f"{pairs['dense']['ssim']:.3f}",
        )
    yield table


def parity(exported: dict[str, Any]) -> Iterator[Any]:
    """How far each export is from torch."""
    table = table_of("ONNX against torch", "", "relative error", "tolerance", "images after the whole loop")
    for model, rungs in exported["parity"].items():
        for dtype, compared in rungs.items():
            if "not_run" in compared:
                table.add_row(f"{model} {dtype}", compared["not_run"], "", "")
                continue
            predictions, least = compared["predictions"], compared["loop"]["least_psnr_db"]
            error, tolerance = f"{predictions['worst']['relative_error']:.1e}", f"{predictions['tolerance']:.0e}"
            table.add_row(f"{model} {dtype}", error, tolerance, "equal" if least is None else f"{least:.0f} dB")
    for name, compared in exported.get("runners", {}).items():
        least = compared.get("least_psnr_db")
        images = compared.get("not_run") or ("equal" if least is None else f"{least:.0f} dB")
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


def verified(verification: dict[str, Any]) -> Iterator[Any]:
    """The answer of a verification in one line, for a log."""
    yield verdict(verification)


def handed(manifest: dict[str, Any]) -> Iterator[Any]:
    """What a server gets."""
    yield f"Model repository for {manifest['container']}: `dtk serve RUN` runs it here."


STAGES: dict[str, Callable[[dict[str, Any]], Iterator[Any]]] = {
    "prune": plan,
    "decoder": decoder,
    "recover": recovery,
    "evaluate": evaluation,
    "export": parity,
    "profile": profile,
    "verify": verified,
    "handoff": handed,
}


def report(value: dict[str, Any]) -> Iterator[Any]:
    """Every finished stage's table."""
    for stage, figures in value["stages"].items():
        yield from STAGES[stage](figures)
