"""``dtk compress`` and ``dtk run``: from a model to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import Json, Out, Overwrite, app, option


@app.command()
def compress(
    model: Annotated[
        str | None, typer.Argument(help="diffusers folder or hub id; none = the embedded default", show_default=False)
    ] = None,
    out: Out = None,
    data: Annotated[str | None, option("folder or zip of images, .npz, or a `datasets` id", "--data")] = None,
    stream: Annotated[
        int | None, option("of a `datasets` id, read so many first rows as they come, and no more")
    ] = None,
    criterion: Annotated[str | None, option("how channels are scored; see `dtk list criteria`")] = None,
    threshold: Annotated[str | None, option("where Diff-Pruning stops: 0.05, or auto")] = None,
    target: Annotated[str | None, option("macs=0.57, params=20M, width=0.75, latency=0.6, latency=4.0ms")] = None,
    runner: Annotated[str | None, option("what a latency= target is measured with [onnxruntime]")] = None,
    batch: Annotated[int | None, option("batch size a latency= target is measured at [16]")] = None,
    align: Annotated[int | None, option("widths are multiples of this [8]")] = None,
    groups: Annotated[str | None, option("norm groups: within | whole")] = None,
    min_width: Annotated[float | None, option("least fraction of a level's width [0.5]")] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="let whole blocks go where the class can say it")] = False,
    tokens: Annotated[
        int | None, option("length of the context MACs are counted for, where the folder leaves it open")
    ] = None,
    calibration_images: Annotated[int | None, option("images to score on [32]")] = None,
    calibration_batch_size: Annotated[int | None, option("images to score at once [all]; saves memory alone")] = None,
    score_timesteps: Annotated[int | None, option("timesteps to score on [every one]; 32 is nearly as good")] = None,
    noise_draws: Annotated[int | None, option("noise tensors that take turns in scoring [1]")] = None,
    score_precision: Annotated[str | None, option("fp32 or bf16 (autocast) in scoring")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="score in less memory and more time")
    ] = False,
    norm_term: Annotated[bool, typer.Option(help="add the paper code's term for norms")] = False,
    reconstruct: Annotated[
        bool, typer.Option(help="fit the sliced layers to the dense model's outputs on the calibration images")
    ] = False,
    steps: Annotated[int | None, option("recovery steps")] = None,
    batch_size: Annotated[int | None, option("recovery images a step")] = None,
    learning_rate: Annotated[float | None, option("recovery learning rate")] = None,
    condition_dropout: Annotated[float | None, option("share trained without class or caption [0.1]")] = None,
    seed: Annotated[int | None, option("seed of everything random")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    recover: Annotated[bool, typer.Option(help="train after pruning")] = True,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would come of it, and stop")] = False,
    json: Json = False,
) -> None:
    """Prune MODEL to a target and recover its quality."""
    from toolkit import pipeline
    from toolkit.asked import compress_recipe
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal
    from toolkit.errors import UsageError

    prune = {
        "criterion": criterion,
        "threshold": threshold,
        "target": target,
        "align": align,
        "groups": groups,
        "min_width": min_width,
        "blocks": blocks or None,
        "tokens": tokens,
        "calibration_images": calibration_images,
        "calibration_batch_size": calibration_batch_size,
        "score_timesteps": score_timesteps,
        "noise_draws": noise_draws,
        "score_precision": score_precision,
        "gradient_checkpointing": gradient_checkpointing or None,
        "norm_term": norm_term or None,
        "reconstruct": reconstruct or None,
        "seed": seed,
    }
    training = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    training |= {"condition_dropout": condition_dropout}
    with terminal(quiet=json) as told:
        asked = compress_recipe(
            model,
            data,
            stream=stream,
            device=device,
            seed=seed,
            prune=prune,
            latency={"runner": runner, "batch": batch},
            recover=training if recover else None,
        )
        if dry_run:
            show(pipeline.dry_run(asked, told.progress), json, tables.plan)
            return
        if out is None:
            raise UsageError("No run folder was given.", do="add -o RUN, or --dry-run to see the plan alone")
        with pipeline.held(out, make=True):
            job = pipeline.start(out, asked, overwrite=overwrite, progress=told.progress, notice=told.notice)
            value = pipeline.run_all(job)
    show(value, json, tables.report)


@app.command(name="run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), such as RUN/recipe.yaml", show_default=False)],
    out: Out = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="recover.steps=2000, say; may be repeated")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Do all that a recipe says; the same command goes on where an interrupted one stopped."""
    from toolkit import pipeline
    from toolkit.asked import folder_of
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal
    from toolkit.recipe import read

    with terminal(quiet=json) as told:
        folder = folder_of(recipe, out)
        asked = read(recipe, tuple(change or ()))
        with pipeline.held(folder, make=True):
            job = pipeline.start(folder, asked, overwrite=overwrite, progress=told.progress, notice=told.notice)
            value = pipeline.run_all(job)
    show(value, json, tables.report)
