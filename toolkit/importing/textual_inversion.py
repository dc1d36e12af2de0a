"""Textual inversion (Gal et al. 2022): new rows of the text encoder's embedding, which pruning leaves as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from toolkit.core.errors import DtkError
from toolkit.core.files import folder_sha256, read_json, replacing
from toolkit.importing.addons import Addon, Pruned, read_tensors
from toolkit.models.folder import ModelFolder

KIND = "textual inversion"
ENCODERS = ("text_encoder", "text_encoder_2")


def recognises(source: Path) -> bool:
    """Whether this is a file of embeddings only."""
    return source.suffix == ".safetensors" and all(tensor.ndim <= 2 for tensor in read_tensors(source)[0].values())


def carry(source: Path, target: Path, pruned: Pruned) -> Addon:
    """Copy the embeddings into the folder ``target``.

    Raises DtkError if no text encoder has their width, or if the compressed model's are not the dense one's.
    """
    tensors, _ = read_tensors(source)
    widths = {place.name: read_json(place / "config.json")["hidden_size"] for place in _encoders(pruned.folder)}
    for name, tensor in tensors.items():
        if tensor.shape[-1] not in widths.values():
            raise DtkError(
                f"{source} was made for another text encoder.",
                found=f"{name} {tuple(tensor.shape)}",
                expected=f"vectors as wide as those of {widths or 'a text encoder, which this model does not have'}",
            )
    for place in _encoders(pruned.folder):
        if folder_sha256(place) != folder_sha256(pruned.compressed.root / place.name):
            raise DtkError(f"The compressed model's {place.name} is not the dense model's.", expected="a copy of it")
    with replacing(target / source.name) as path:
        shutil.copyfile(source, path)
    return Addon(KIND, str(target / source.name), 0, len(tensors))


def _encoders(folder: ModelFolder) -> list[Path]:
    return [folder.root / name for name in ENCODERS if (folder.root / name / "config.json").is_file()]
