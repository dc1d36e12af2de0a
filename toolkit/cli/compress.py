"""``dtk compress`` and ``dtk run``: from a model to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.app import Json, Out, Overwrite, app, option


@app.command()
def compress(
    model: Annotated[
        str | None, typer.Argument(help="diffusers folder or hub id; none = the embedded default", show_default=False)
    ] = None,
    out: Out = None,
    data: Annotated[str | None, option("folder or zip of images, .npz, or a `datasets` id", "--data")] = None,
    stream: Annotated[int | None, option("of a `datasets` id, read only that many of its first rows")] = None,
    criterion: Annotated[
        str | None, option("how channels are scored; see `dtk list criteria`", default="diff-pruning")
    ] = None,
    threshold: Annotated[
        str | None, option("where Diff-Pruning stops: a fraction of the loss, or auto", default="0.05")
    ] = None,
    target: Annotated[
        str | None,
        option(
            "macs=0.57, params<=20M, width=0.75, latency<=4.0ms; several: latency<=0.6,params<=0.7", default="macs=0.57"
        ),
    ] = None,
    rounds: Annotated[
        str | None,
        option(
            "how often to prune and recover, or the earlier rounds' targets: macs<=0.7;macs<=0.5; --steps is per round",
            default="1",
        ),
    ] = None,
    runner: Annotated[
        str | None,
        option(
            "what a bound on latency is measured with: NAME or NAME:DTYPE, such as openvino:bf16", default="onnxruntime"
        ),
    ] = None,
    batch: Annotated[int | None, option("batch size a bound on latency is measured at", default="16")] = None,
    build_budget_s: Annotated[
        float | None, option("seconds to build each engine in, of a bound on TensorRT's latency", default="any")
    ] = None,
    align: Annotated[int | None, option("widths are multiples of this", default="8")] = None,
    groups: Annotated[str | None, option("norm groups: within | whole", default="within")] = None,
    min_width: Annotated[float | None, option("smallest fraction of a level's width", default="0.5")] = None,
    preset: Annotated[
        str | None, option("blocks of a published model that go: bk-sdm-base, bk-sdm-small, ssd-1b or segmind-vega")
    ] = None,
    blocks: Annotated[
        bool | None, typer.Option("--blocks", help="also remove whole blocks, if the class allows it")
    ] = None,
    tokens: Annotated[
        int | None, option("context length that MACs are counted for, if the folder does not say it")
    ] = None,
    calibration_images: Annotated[int | None, option("images to score on", default="32")] = None,
    calibration_batch_size: Annotated[
        int | None, option("images to score at once; saves memory only", default="all")
    ] = None,
    score_timesteps: Annotated[
        int | None, option("timesteps to score on; 32 is nearly as good", default="every one")
    ] = None,
    noise_draws: Annotated[int | None, option("noise tensors that alternate in scoring", default="1")] = None,
    score_precision: Annotated[str | None, option("fp32 or bf16 (autocast) in scoring", default="fp32")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="score in less memory and more time")
    ] = None,
    norm_term: Annotated[
        bool | None, option("add the paper code's term for norms", "--norm-term/--no-norm-term")
    ] = None,
    reconstruct: Annotated[
        bool | None,
        option(
            "fit the sliced layers to the dense model's outputs on the calibration images",
            "--reconstruct/--no-reconstruct",
        ),
    ] = None,
    steps: Annotated[int | None, option("recovery steps", default="500")] = None,
    batch_size: Annotated[int | None, option("recovery images per step", default="64")] = None,
    learning_rate: Annotated[float | None, option("recovery learning rate", default="0.0002")] = None,
    condition_dropout: Annotated[float | None, option("share trained without class or caption", default="0.1")] = None,
    track: Annotated[str | None, option("log recovery to tensorboard, wandb, trackio, ...")] = None,
    sampling_steps: Annotated[int | None, option("afterwards teach it to sample in so few steps, such as 4")] = None,
    teaching: Annotated[
        str | None, option("how steps are taught: trajectory, progressive", default="trajectory")
    ] = None,
    teaching_steps: Annotated[int | None, option("training steps of the teaching", default="1000")] = None,
    decoder: Annotated[
        str | None, option("also prune the decoder of an AutoencoderKL, such as macs=0.5, params=0.5 or width=0.75")
    ] = None,
    decoder_steps: Annotated[int | None, option("training steps of the decoder", default="1000")] = None,
    seed: Annotated[int | None, option("seed of everything random", default="0")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    recover: Annotated[bool, typer.Option(help="train after pruning")] = True,
    resume_from: Annotated[
        str | None, option("train on from a run, or a published one (folder or hub id), instead of pruning")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    json: Json = False,
) -> None:
    """Prune MODEL to a target and recover its quality."""
    options: dict[str, Any] = {
        "criterion": criterion,
        "threshold": threshold,
        "target": target,
        "rounds": rounds,
        "runner": runner,
        "batch": batch,
        "build_budget_s": build_budget_s,
        "align": align,
        "groups": groups,
        "min_width": min_width,
        "blocks": blocks,
        "preset": preset,
        "tokens": tokens,
        "calibration_images": calibration_images,
        "calibration_batch_size": calibration_batch_size,
        "score_timesteps": score_timesteps,
        "noise_draws": noise_draws,
        "score_precision": score_precision,
        "gradient_checkpointing": gradient_checkpointing,
        "norm_term": norm_term,
        "reconstruct": reconstruct,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "condition_dropout": condition_dropout,
        "track": track,
        "sampling_steps": sampling_steps,
        "teaching": teaching,
        "teaching_steps": teaching_steps,
        "decoder": decoder,
        "decoder_steps": decoder_steps,
    }
    from toolkit.api import runs
    from toolkit.api.options import PruneOptions
    from toolkit.api.pruning import plan
    from toolkit.cli.terminal import say, show, terminal
    from toolkit.core.errors import UsageError

    with terminal(quiet=json) as progress:
        if dry_run:
            planned = {name: option for name, option in options.items() if name in PruneOptions.__annotations__}
            summary = plan(model, decoder=decoder, device=device, progress=progress, **planned)
            show(summary, json)
            if not json:
                left = f"{summary.params_fraction:.0%} of the parameters and {summary.macs_fraction:.0%} of the MACs"
                say(f"\n{left} would be left.")
                say(f"Nothing was written. Next: the same command without --dry-run{'' if out else ', with -o RUN'}")
            return
        if out is None:
            raise UsageError("No run folder was given.", do="add -o RUN, or --dry-run to see only the plan")
        storage: dict[str, Any] = {"data": data, "stream": stream, "recover": recover, "overwrite": overwrite}
        storage |= {"device": device, "resume_from": resume_from}
        run = runs.compress(model, out=out, progress=progress, **storage, **options)
        report = run.report()
    _end(report, json)


@app.command(name="run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="recipe (YAML), such as RUN/recipe.yaml", show_default=False)],
    out: Out = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="a setting, such as recover.steps=2000; may be repeated")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Do all that a recipe says; the same command resumes an interrupted one."""
    from toolkit.api import runs
    from toolkit.cli.terminal import terminal

    with terminal(quiet=json) as progress:
        run = runs.run_recipe(recipe, out=out, changes=change or (), overwrite=overwrite, progress=progress)
        report = run.report()
    _end(report, json)


def _end(report: object, json: bool) -> None:
    from toolkit.api.results import Report
    from toolkit.cli.terminal import show, show_ending

    assert isinstance(report, Report)
    show(report, json)
    if not json:
        show_ending(report)
