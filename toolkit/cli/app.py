"""The commands. Nothing heavy is imported here: ``dtk --help`` answers without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="dtk",
    help="Make a trained diffusion model half as large, prove what that won, and hand it to a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="run folder that `dtk compress` or `dtk run` made", show_default=False)]
Out = Annotated[Path, typer.Option("-o", "--out", help="run folder to write", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Overwrite = Annotated[bool, typer.Option(help="replace a run of another recipe")]


def option(help_text: str, *names: str) -> Any:
    """An option whose default is the recipe's."""
    return typer.Option(*names, help=help_text, show_default=False)


@app.command()
def compress(
    model: Annotated[
        str | None, typer.Argument(help="diffusers folder or hub id; none = the embedded default", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="run folder to write", show_default=False)] = None,
    data: Annotated[str | None, option("folder or zip of images, .npz, or a `datasets` id", "--data")] = None,
    criterion: Annotated[str | None, option("how channels are scored; see `dtk list criteria`")] = None,
    threshold: Annotated[str | None, option("where Diff-Pruning stops: 0.05, or auto")] = None,
    target: Annotated[str | None, option("macs=0.57, params=20M, width=0.75")] = None,
    align: Annotated[int | None, option("widths are multiples of this [8]")] = None,
    groups: Annotated[str | None, option("norm groups: within | whole")] = None,
    min_width: Annotated[float | None, option("least fraction of a level's width [0.5]")] = None,
    calibration_images: Annotated[int | None, option("images to score on [32]")] = None,
    norm_term: Annotated[bool, typer.Option(help="add the paper code's term for norms")] = False,
    steps: Annotated[int | None, option("recovery steps")] = None,
    batch_size: Annotated[int | None, option("recovery images a step")] = None,
    learning_rate: Annotated[float | None, option("recovery learning rate")] = None,
    seed: Annotated[int | None, option("seed of everything random")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    recover: Annotated[bool, typer.Option(help="train after pruning")] = True,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would come of it, and stop")] = False,
    json: Json = False,
) -> None:
    """Prune MODEL to a target and recover its quality."""
    from toolkit import pipeline
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
        "calibration_images": calibration_images,
        "norm_term": norm_term or None,
        "seed": seed,
    }
    training = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    with terminal(quiet=json) as told:
        asked = pipeline.compress_recipe(
            model, data, device=device, seed=seed, prune=prune, recover=training if recover else None
        )
        if dry_run:
            show(pipeline.dry_run(asked), json, tables.plan)
            return
        if out is None:
            raise UsageError("No run folder was given.", do="add -o RUN, or --dry-run to see the plan alone")
        job = pipeline.start(out, asked, overwrite=overwrite, progress=told.progress, notice=told.notice)
        value = pipeline.run_all(job)
    show(value, json, tables.report)


def _stage(path: Path, stage: str, json: bool, **changes: Any) -> None:
    """Run one stage of an existing run with changed settings, and show what it found."""
    from toolkit import pipeline
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json) as told:
        job = pipeline.take_up(path, told.progress, told.notice)
        job = pipeline.with_settings(job, stage, pipeline.settings_for(job, stage, **changes))
        value = pipeline.VERBS[stage](job)
        pipeline.report(job)
    table: Callable[[dict[str, Any]], Any] = tables.STAGES[stage]
    show(value, json, table)


@app.command()
def recover(
    run: RunFolder,
    steps: Annotated[int | None, option("train up to this many steps in all")] = None,
    seed: Annotated[int | None, option("seed of order and noise")] = None,
    batch_size: Annotated[int | None, option("images a step")] = None,
    learning_rate: Annotated[float | None, option("learning rate")] = None,
    json: Json = False,
) -> None:
    """Train the pruned model on, with the dense one as teacher."""
    _stage(run, "recover", json, steps=steps, seed=seed, batch_size=batch_size, learning_rate=learning_rate)


@app.command()
def evaluate(
    run: RunFolder,
    images: Annotated[int | None, option("samples of each model")] = None,
    sampler: Annotated[str | None, option("ddim, ddpm, dpm-solver")] = None,
    sampling_steps: Annotated[int | None, option("steps of the sampler")] = None,
    features: Annotated[str | None, option("feature extractor of the distances")] = None,
    seed: Annotated[int | None, option("seed of the first sample")] = None,
    json: Json = False,
) -> None:
    """Sample dense and compressed side by side and measure both against real images."""
    changes = {"sampler": sampler, "sampling_steps": sampling_steps, "features": features, "seed": seed}
    _stage(run, "evaluate", json, images=images, **changes)


@app.command()
def export(
    run: RunFolder,
    dtype: Annotated[str | None, option("fp32, fp16 or bf16")] = None,
    batch: Annotated[str | None, option("batch sizes min:opt:max, such as 1:8:64")] = None,
    opset: Annotated[int | None, option("ONNX opset, 18 to 23 [21]")] = None,
    json: Json = False,
) -> None:
    """Write ONNX files and prove them equal to torch."""
    _stage(run, "export", json, dtype=dtype, batch=batch, opset=opset)


@app.command()
def profile(
    run: RunFolder,
    runner: Annotated[str | None, option("runners, by comma: torch,onnxruntime")] = None,
    batch: Annotated[str | None, option("batch sizes, by comma: 1,16,64")] = None,
    json: Json = False,
) -> None:
    """Measure dense against compressed: size, MACs, latency, memory."""
    runners = runner.split(",") if runner else None
    batches = batch.split(",") if batch else None
    _stage(run, "profile", json, runners=runners, batches=batches)


@app.command()
def report(run: RunFolder, json: Json = False) -> None:
    """Say what a run found."""
    from toolkit import pipeline
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json) as told:
        value = pipeline.report(pipeline.take_up(run, told.progress, told.notice))
    show(value, json, tables.report)


@app.command(name="run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), such as RUN/recipe.yaml", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="run folder; default: the recipe's own")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="recover.steps=2000, say; may be repeated")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Do all that a recipe says; the same command goes on where an interrupted one stopped."""
    from toolkit import pipeline
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal
    from toolkit.recipe import read

    with terminal(quiet=json) as told:
        folder = pipeline.folder_of(recipe, out)
        asked = read(recipe, tuple(change or ()))
        job = pipeline.start(folder, asked, overwrite=overwrite, progress=told.progress, notice=told.notice)
        value = pipeline.run_all(job)
    show(value, json, tables.report)


@app.command(name="list")
def list_known(
    kind: Annotated[str, typer.Argument(help="criteria, adapters, runners, samplers or losses")], json: Json = False
) -> None:
    """List what dtk knows."""
    from toolkit import pipeline
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json):
        known = pipeline.known(kind)
    show(known, json, lambda names: (f"{name:<18} {what}" for name, what in names.items()))
