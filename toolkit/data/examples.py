"""What a denoiser is scored and trained on: images, or the latents of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from toolkit.core.progress import Progress
from toolkit.data.conditions import Condition, Kind


class Examples(Protocol):
    """Images or latents by number, with their conditions; toolkit.data.images.Images is one."""

    @property
    def source(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def skipped(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it yields."""
        ...

    def __len__(self) -> int: ...

    def prepare(self, progress: Progress, *, mirrored: bool) -> None:
        """Do what is better done once, before many are read; ``mirrored`` says that mirrored ones will be."""
        ...

    def read(self, indices: Sequence[int], mirrored: Sequence[bool] = ()) -> np.ndarray:
        """The examples at ``indices``, float32 (N, C, H, W), those made of mirrored images if requested."""
        ...

    def conditions(self, kind: Kind, indices: Sequence[int]) -> list[Condition]:
        """The class or the caption of each; None if the source gives none."""
        ...
