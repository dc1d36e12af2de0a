"""``dtk import``: a checkpoint of another code base becomes a diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, folder_sha256, replacing, value_sha256
from toolkit.importing import compvis, ddim
from toolkit.importing.checkpoint import Weights, read
from toolkit.importing.folder import NAME, convert_folder

LAYOUTS = (ddim, compvis)


def convert(
    source: Path, target: Path, *, weights: Weights = "ema", size: int | None = None, scheduler: str | None = None
) -> dict[str, Any]:
    """Write a diffusers folder at ``target`` from the checkpoint ``source``; returns what it is and its figures.

    ``source`` may also be a diffusers folder with pickled weights (.bin), or with those of a variant only.

    ``weights`` chooses between trained weights and their average if the file holds both; ``size`` is the side of the
    denoiser's images if the tensors do not say it, ``scheduler`` what a diffusers folder without one gets: "ddpm",
    "ddim" or the path of a scheduler_config.json. Raises DtkError for a layout that is not known, a file that needs
    code, and a target that is taken.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DtkError(f"{target} is already there.", expected="a new name or an empty folder")
    if source.is_dir():
        with replacing(target) as folder:
            made = convert_folder(source, folder, scheduler)
        return {"layout": NAME, "source_sha256": value_sha256(folder_sha256(source)), "folder": str(target), **made}
    if scheduler is not None:
        raise UsageError("The noise levels of a checkpoint are known.", found=source, do="leave out --scheduler")
    tensors = read(source, weights)
    layout = next((layout for layout in LAYOUTS if layout.recognises(tensors)), None)
    if layout is None:
        raise DtkError(
            f"dtk does not know the layout of {source}.",
            found="tensors such as " + ", ".join(sorted(tensors)[:4]),
            expected="a checkpoint of the DDIM code base (temb.dense.0, down.0.block.0, ...) "
            "or of CompVis latent diffusion (model.diffusion_model.input_blocks.0, ...)",
        )
    with replacing(target) as folder:
        made = layout.write(tensors, folder, size)
    return {"layout": layout.NAME, "source_sha256": file_sha256(source), "folder": str(target), **made}
