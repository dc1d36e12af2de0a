"""``dtk sweep``: several targets in one go, and which of what came of them are worth having."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.app import Json, Overwrite, app, option


@app.command()
def sweep(
    targets: Annotated[str, option("targets, by comma: latency=0.8,latency=0.6,macs=0.4")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder that holds a run folder for each target")],
    model: Annotated[
        str | None, typer.Argument(help="diffusers folder or hub id; none = the embedded default", show_default=False)
    ] = None,
    data: Annotated[str | None, option("folder or zip of images, .npz, or a `datasets` id", "--data")] = None,
    criterion: Annotated[str | None, option("how channels are scored; see `dtk list criteria`")] = None,
    runner: Annotated[str | None, option("what latency is measured with [onnxruntime]")] = None,
    batch: Annotated[int | None, option("batch size latency is measured at [16]")] = None,
    align: Annotated[int | None, option("widths are multiples of this [8]")] = None,
    calibration_images: Annotated[int | None, option("images to score on [32]")] = None,
    steps: Annotated[int | None, option("recovery steps of each")] = None,
    batch_size: Annotated[int | None, option("recovery images a step")] = None,
    images: Annotated[int | None, option("samples that quality is judged by [1000]")] = None,
    sampling_steps: Annotated[int | None, option("steps of the sampler [20]")] = None,
    seed: Annotated[int | None, option("seed of everything random")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    recover: Annotated[bool, typer.Option(help="train after pruning")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compress MODEL to several targets and lay quality against latency, beside the dense model in fewer steps.

    The same command goes on where an interrupted one stopped.
    """
    from toolkit import pipeline
    from toolkit import sweep as sweeps
    from toolkit.asked import compress_recipe
    from toolkit.cli.terminal import show, terminal

    prune = {"criterion": criterion, "align": align, "calibration_images": calibration_images, "seed": seed}
    training = {"steps": steps, "batch_size": batch_size, "seed": seed}
    judging = {"images": images, "sampling_steps": sampling_steps}
    with terminal(quiet=json) as told:
        base = compress_recipe(
            model, data, device=device, seed=seed, prune=prune, latency={}, recover=training if recover else None
        )
        asked = sweeps.recipes(base, targets.split(","), judging, {"runner": runner, "batch": batch})
        with pipeline.held(out, make=True):
            value = sweeps.sweep(out, asked, overwrite=overwrite, progress=told.progress, notice=told.notice)
        told.console.print(f"The picture: {out / sweeps.PICTURE}", highlight=False, markup=False, soft_wrap=True)
    show(value, json, points)


def points(value: dict[str, Any]) -> Iterator[Any]:
    """Every point by its time, and what makes those that are dominated not worth having."""
    from rich.table import Table

    measured = f"{value['latency']['runner']}, batch {value['latency']['batch']}"
    columns = ("", "steps", "time of an image, of dense", value["metric"], "dominated by")
    table = Table(*columns, title=f"Quality against latency ({measured})", title_justify="left")
    for point in sorted(value["points"], key=lambda point: point["cost"]):
        interval = "" if point["kind"] == "dense" else f" ({point['cost_low']:.3f}-{point['cost_high']:.3f})"
        cost = f"{point['cost']:.3f}{interval}"
        table.add_row(
            point["name"], str(point["steps"]), cost, f"{point['distance']:.3f}", point["dominated_by"] or "-"
        )
    yield table
    yield from (f"left out: {name}: {reason}" for name, reason in value["refused"].items())
