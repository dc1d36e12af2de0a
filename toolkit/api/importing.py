"""Models of other formats into diffusers folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toolkit.api import results
from toolkit.importing.convert import convert


def import_checkpoint(
    checkpoint: str | Path,
    *,
    out: str | Path,
    weights: Literal["ema", "plain"] = "ema",
    size: int | None = None,
    scheduler: str | None = None,
) -> results.Imported:
    """A diffusers folder from a checkpoint of the DDIM code base, of CompVis latent diffusion, or from a diffusers
    folder whose weights are pickled (.bin) or of a variant (fp16), or that lacks a ``scheduler``; runs no code of it.
    """
    options: dict[str, Any] = {"weights": weights, "size": size, "scheduler": scheduler}
    return results.Imported(convert(Path(checkpoint), Path(out), **options), Path(out))
