"""``dtk sweep``: several targets in one go, and which of what came of them are worth having."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.app import Json, Overwrite, app, option


@app.command()
def sweep(
    targets: Annotated[
        str,
        option("latency=0.8,latency=0.6; if any has several bounds, by semicolons: latency<=0.8,params<=0.7;macs=0.4"),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder that holds a run folder for each target")],
    model: Annotated[
        str | None, typer.Argument(help="diffusers folder or hub id; none = the embedded default", show_default=False)
    ] = None,
    data: Annotated[str | None, option("folder or zip of images, .npz, or a `datasets` id", "--data")] = None,
    criterion: Annotated[
        str | None, option("how channels are scored; see `dtk list criteria`", default="diff-pruning")
    ] = None,
    runner: Annotated[
        str | None,
        option("what latency is measured with: NAME or NAME:DTYPE, such as openvino:bf16", default="onnxruntime"),
    ] = None,
    batch: Annotated[int | None, option("batch size latency is measured at", default="16")] = None,
    align: Annotated[int | None, option("widths are multiples of this", default="8")] = None,
    calibration_images: Annotated[int | None, option("images to score on", default="32")] = None,
    steps: Annotated[int | None, option("recovery steps of each", default="500")] = None,
    batch_size: Annotated[int | None, option("recovery images per step", default="64")] = None,
    images: Annotated[int | None, option("samples that quality is judged by", default="1000")] = None,
    evaluation_steps: Annotated[int | None, option("steps the dense model is sampled in", default="20")] = None,
    taught_steps: Annotated[
        list[int] | None, option("also teach each to sample in so few steps, a run of its own; may be repeated")
    ] = None,
    seed: Annotated[int | None, option("seed of everything random", default="0")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    recover: Annotated[bool, typer.Option(help="train after pruning")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compress MODEL to several targets; compare quality and latency with the dense model in fewer steps.

    The same command resumes an interrupted one.
    """
    from toolkit.api import several
    from toolkit.cli.terminal import say, show, terminal
    from toolkit.pruning.targets import split_targets

    options: dict[str, Any] = {
        "criterion": criterion,
        "align": align,
        "calibration_images": calibration_images,
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "runner": runner,
        "batch": batch,
        "device": device,
        "images": images,
        "evaluation_steps": evaluation_steps,
        "taught_steps": taught_steps or (),
        "recover": recover,
        "overwrite": overwrite,
    }
    with terminal(quiet=json) as progress:
        result = several.sweep(model, out=out, targets=split_targets(targets), data=data, progress=progress, **options)
    show(result, json)
    if not json:
        say(f"Figures: {out}/sweep.json. Picture: {out}/pareto.svg. Next: dtk export {out}/{result.best}")
