"""Settings of the prune stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from toolkit.settings import Settings


class PruneSettings(Settings):
    """What is pruned, how much, and by which criterion.

    ``threshold``: where Diff-Pruning stops summing gradients; "auto" takes the one that leaves the least one-shot error
    on held-out images. ``calibration_images``: size of the one calibration batch; as many more are held out.
    ``min_width``: no level gets narrower than this fraction of its dense width, and no stack of blocks shorter.
    ``blocks``: whole blocks may go as well where the class can say it (UNet2DConditionModel's ``layers_per_block``); a
    class whose widths are not free (DiT) is pruned by blocks in any case.
    """

    target: str = "macs=0.57"
    criterion: str = "diff-pruning"
    threshold: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.05
    align: int = Field(default=8, ge=1)
    groups: Literal["within", "whole"] = "within"
    min_width: float = Field(default=0.5, gt=0, le=1)
    blocks: bool = False
    calibration_images: int = Field(default=32, ge=1)
    norm_term: bool = False
    seed: int = Field(default=0, ge=0)
