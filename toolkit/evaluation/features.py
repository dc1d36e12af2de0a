"""Feature extractors: images in, one vector per image out. A distance always names the one it was measured with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit import evaluation
from toolkit.core.errors import unknown
from toolkit.core.progress import Progress, silent
from toolkit.core.registry import entries

if TYPE_CHECKING:
    import torch

BATCH = 64


@dataclass
class Extractor:
    """A network whose features are compared: its name, the SHA-256 of its weights, and how to load it.

    ``load`` returns a module that takes pixels float32 (B, 3, H, W) in [0, 255] and returns features (B, D): resizing
    and normalising belong to the module, as they are part of what the name stands for. Any torch module of that form
    will do.
    """

    name: str
    sha256: str
    load: Callable[[], torch.nn.Module]
    device: str = "cpu"

    @cached_property
    def _module(self) -> torch.nn.Module:
        return self.load().eval().requires_grad_(False).to(self.device)

    def __call__(self, images: np.ndarray, progress: Progress = silent, work: str = "features") -> np.ndarray:
        """Features float32 (N, D) of ``images`` uint8 (N, H, W, C); grey images are given to all three channels."""
        features = []
        for start in range(0, len(images), BATCH):
            features.append(self._batch(images[start : start + BATCH]))
            progress(work, min(start + BATCH, len(images)), len(images))
        return np.concatenate(features)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self.device)
        with torch.inference_mode():
            features = self._module(pixels.float().expand(-1, 3, -1, -1))
        return np.asarray(features.float().cpu().numpy())


@dataclass(frozen=True)
class ExtractorKind:
    """An extractor by name; one file each, with its ``EXTRACTOR``.

    ``open`` takes what the user named and the device. ``reads_files``: what is named is a file of this kind.
    """

    name: str
    description: str
    open: Callable[[str, str], Extractor]
    reads_files: bool = False


def known_extractors() -> dict[str, ExtractorKind]:
    """Every kind of extractor, by name."""
    return entries(evaluation, "EXTRACTOR", ExtractorKind)


def open_extractor(requested: str, device: str = "cpu") -> Extractor:
    """The extractor of that name, or a TorchScript file's; its network is loaded at the first call.

    Raises UsageError for what is neither, MissingToolError if its packages are not installed.
    """
    known = known_extractors()
    is_file = Path(requested).is_file()
    kind = next((kind for kind in known.values() if is_file and kind.reads_files), None) or known.get(requested)
    if kind is None or kind.reads_files != is_file:
        names = [kind.name for kind in known.values() if not kind.reads_files]
        raise unknown("feature extractor", requested, [*names, "the path of a TorchScript file"])
    return kind.open(requested, device)
