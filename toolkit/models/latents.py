"""The latents of images, encoded once and kept on disk.

The shards lie in a folder named by the hashes of the autoencoder and of the images, each written whole or not at all,
so that an interrupted encoding continues and another autoencoder never meets another's latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from toolkit.core.errors import DtkError
from toolkit.core.files import replacing, value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.data.conditions import Condition, Kind
from toolkit.data.examples import Examples
from toolkit.data.images import Images
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder

SHARD = 256  # images; a killed process loses at most one shard


class Latents:
    """Latents float32 (c, h, w) of images, as the denoiser takes them.

    ``prepare`` encodes all of them into ``cache``; until then ``read`` encodes what is requested and keeps nothing,
    so that a few images of a large set cost a few.
    """

    def __init__(self, images: Images, autoencoder: AutoencoderFolder, cache: Path, device: str = "cpu") -> None:
        self.images, self.autoencoder, self.device = images, autoencoder, device
        self.folder = cache / "latents" / self.fingerprint[:16]
        self._shards: dict[tuple[int, bool], np.ndarray] = {}

    @property
    def source(self) -> str:
        return self.images.source

    @property
    def sha256(self) -> str:
        return self.images.sha256

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.images.skipped

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images' fingerprint and the autoencoder's hash."""
        return value_sha256([self.images.fingerprint, self.autoencoder.sha256])

    def __len__(self) -> int:
        return len(self.images)

    def conditions(self, kind: Kind, indices: Sequence[int]) -> list[Condition]:
        return self.images.conditions(kind, indices)

    def prepare(self, progress: Progress = silent, *, mirrored: bool = False) -> None:
        """Encode what is not stored yet; with ``mirrored`` the mirrored images as well.

        Raises DtkError if the autoencoder makes values that are not finite.
        """
        wanted = [(start, flip) for flip in ((False, True) if mirrored else (False,)) for start in self._starts]
        for done, (start, flip) in enumerate(wanted):
            progress("encoding images", done, len(wanted))
            if self._stored(start, flip) is None:
                indices = range(start, min(start + SHARD, len(self)))
                with replacing(self._path(start, flip)) as temporary, temporary.open("wb") as stream:
                    np.save(stream, self._encode(indices, [flip] * len(indices)), allow_pickle=False)
        progress("encoding images", len(wanted), len(wanted))

    def read(self, indices: Sequence[int], mirrored: Sequence[bool] = ()) -> np.ndarray:
        flips = list(mirrored) or [False] * len(indices)
        latents = [self._read_one(index, flip) for index, flip in zip(indices, flips, strict=True)]
        kept = [latent for latent in latents if latent is not None]
        return np.stack(kept) if len(kept) == len(latents) and latents else self._encode(indices, flips)

    def _read_one(self, index: int, flip: bool) -> np.ndarray | None:
        shard = self._stored(index // SHARD * SHARD, flip)
        return None if shard is None else shard[index % SHARD]

    def _stored(self, start: int, flip: bool) -> np.ndarray | None:
        """A shard, None if it is absent or damaged; it is memory-mapped."""
        if (start, flip) not in self._shards:
            try:
                shard = np.load(self._path(start, flip), mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if len(shard) != min(SHARD, len(self) - start):
                return None
            self._shards[start, flip] = shard
        return self._shards[start, flip]

    @property
    def _starts(self) -> range:
        return range(0, len(self), SHARD)

    def _path(self, start: int, flip: bool) -> Path:
        return self.folder / f"{start:08}{'-mirrored' if flip else ''}.npy"

    @cached_property
    def _opened(self) -> Autoencoder:
        return Autoencoder.load(self.autoencoder, self.device)

    def _encode(self, indices: Sequence[int], mirrored: Sequence[bool]) -> np.ndarray:
        latents = self._opened.encode(torch.from_numpy(self.images.read(indices, mirrored))).cpu().numpy()
        broken = [i for i, one in zip(indices, latents, strict=True) if not np.isfinite(one).all()]
        if broken:
            raise DtkError(
                f"The autoencoder {self.autoencoder.path} makes latents that are not finite.",
                found=f"{len(broken)} of {len(indices)} images of {self.source}, the first being number {broken[0]}",
                expected="finite latents of every image",
            )
        return np.asarray(latents, dtype=np.float32)


class EncodedExamples:
    """The latents of images, encoded each time they are read, by an autoencoder in memory."""

    def __init__(self, images: Examples, autoencoder: Autoencoder) -> None:
        self.images, self.autoencoder, self.source = images, autoencoder, images.source
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        return self.images.sha256

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def prepare(self, progress: Progress = silent, *, mirrored: bool = False) -> None:
        """Nothing: what is read is not kept."""

    def read(self, indices: Sequence[int], mirrored: Sequence[bool] = ()) -> np.ndarray:
        pixels = torch.from_numpy(self.images.read(indices, mirrored))
        return np.asarray(self.autoencoder.encode(pixels).cpu().numpy())

    def conditions(self, kind: Kind, indices: Sequence[int]) -> list[Condition]:
        return self.images.conditions(kind, indices)
