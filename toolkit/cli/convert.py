"""``dtk import``: from a checkpoint of another code base to a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from toolkit.cli.app import Json, app, option


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help=".ckpt or .pth file", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="diffusers folder to write", show_default=False)],
    weights: Annotated[str, typer.Option(help="where both are there: ema (what sampling uses) or plain")] = "ema",
    size: Annotated[int | None, option("side of the denoiser's images, where the tensors do not say it")] = None,
    json: Json = False,
) -> None:
    """Turn a checkpoint of DDIM's code base or CompVis latent diffusion into a diffusers folder; runs no code of it."""
    from toolkit import pipeline
    from toolkit.cli.terminal import show, terminal
    from toolkit.errors import unknown

    with terminal(quiet=json):
        if weights not in ("ema", "plain"):
            raise unknown("choice of weights", weights, ["ema", "plain"])
        chosen: Literal["ema", "plain"] = "ema" if weights == "ema" else "plain"
        made = pipeline.import_checkpoint(checkpoint, out, weights=chosen, size=size)
    show(made, json, _told)


def _told(made: dict[str, Any]) -> Iterator[str]:
    side = made["sample_size"]
    yield f"{made['layout']}: a {made['class']} of {made['params']:,} parameters for {side}x{side}"
    yield f"Written: {made['folder']}"
