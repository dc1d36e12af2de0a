"""``dtk import``, ``carry`` and ``publish``: models and add-ons of others in, a compressed model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.app import Json, RunArgument, app, option

LOADED = {
    "LoRA": 'load_lora_weights("{out}")',
    "ControlNet": 'ControlNetModel.from_pretrained("{out}")',
    "textual inversion": 'load_textual_inversion("{out}")',
}


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help=".ckpt or .pth file; diffusers folder with .bin or fp16 weights, or without a scheduler",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="diffusers folder to write", show_default=False)],
    weights: Annotated[str, typer.Option(help="if the file holds both: ema (what sampling uses) or plain")] = "ema",
    size: Annotated[int | None, option("side of the denoiser's images, if the tensors do not say it")] = None,
    scheduler: Annotated[
        str | None, option("what a denoiser without one gets: ddpm, ddim, or a scheduler_config.json")
    ] = None,
    json: Json = False,
) -> None:
    """Make a diffusers folder of safetensors from a checkpoint (DDIM code base, CompVis) or from pickled weights."""
    from toolkit.api import importing
    from toolkit.cli.terminal import say, show, terminal
    from toolkit.core.errors import unknown

    with terminal(quiet=json):
        if weights not in ("ema", "plain"):
            raise unknown("choice of weights", weights, ["ema", "plain"])
        chosen: Literal["ema", "plain"] = "ema" if weights == "ema" else "plain"
        result = importing.import_checkpoint(checkpoint, out=out, weights=chosen, size=size, scheduler=scheduler)
    show(result, json)
    if not json:
        say(f"Next: dtk compress {out} --data IMAGES -o RUN")


@app.command()
def carry(
    addon: Annotated[Path, typer.Argument(help="LoRA, textual inversion (safetensors) or ControlNet (folder)")],
    run: RunArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write", show_default=False)],
    json: Json = False,
) -> None:
    """Slice a LoRA, textual inversion or ControlNet of the dense model so that it fits the compressed one."""
    from toolkit.api import runs
    from toolkit.cli.terminal import say, show, terminal

    with terminal(quiet=json) as progress:
        result = runs.open_run(run, progress=progress).carry(addon, out=out)
    show(result, json)
    if not json:
        say(f"Next: {LOADED[result.kind].format(out=result.file)} on the pipeline of {run}/model")


@app.command()
def publish(
    run: RunArgument,
    repository: Annotated[
        str | None, typer.Argument(metavar="[REPO]", help="repository of the hub to upload to: OWNER/NAME")
    ] = None,
    license: Annotated[str | None, option("licence of the model, such as apache-2.0", default="its card's")] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository a private one")] = False,
    json: Json = False,
) -> None:
    """Write a model card into RUN/model; upload the folder to the hub if REPO is named."""
    from toolkit.api import runs
    from toolkit.cli.terminal import say, show, terminal

    with terminal(quiet=json) as progress:
        result = runs.open_run(run, progress=progress).publish(repository, license=license, private=private)
    show(result, json)
    if not json:
        say(f"Next: dtk compress MODEL --resume-from {repository or run} -o OTHER trains it further")
