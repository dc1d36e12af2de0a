"""What the export left around the step graph: decoder, conditioner and tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256, read_json

DECODER, CONDITIONER = "decoder.onnx", "conditioner.onnx"


@dataclass(frozen=True)
class Part:
    """An exported graph next to the step graph: its file and the description next to it."""

    path: Path
    description: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """The part at ``path``, None if there is none. Raises DtkError if its files were changed."""
        if not path.is_file():
            return None
        part = cls(path, read_json(path.with_suffix(".json")))
        check_files(path.parent, part.description)
        return part

    @property
    def files(self) -> list[Path]:
        """The graph and, if it has external weights, their file."""
        return [self.path.parent / name for name in self.description["sha256"]]

    @property
    def tokenizers(self) -> dict[str, Path]:
        """The tokenizer that makes each of its inputs; none if they are not token ids."""
        named = {name: f"{name.replace('input_ids', 'tokenizer')}.json" for name in self.description["inputs"]}
        return {name: self.path.parent / file for name, file in named.items() if (self.path.parent / file).is_file()}


def check_files(folder: Path, description: dict[str, Any]) -> None:
    """Refuse files that are not those of the description."""
    for name, sha256 in description["sha256"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DtkError(f"{folder / name} is damaged or was changed.", do="export it again: `dtk export`")
