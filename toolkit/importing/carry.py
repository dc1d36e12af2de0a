"""``dtk carry``: what was made for the dense model, made to fit the compressed one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError, UsageError
from toolkit.importing import controlnet, lora, textual_inversion
from toolkit.importing.addons import Pruned

KINDS = (controlnet, lora, textual_inversion)  # in the order in which they are recognised


def carry(source: Path, target: Path, pruned: Pruned) -> dict[str, Any]:
    """Write into the folder ``target`` what ``source`` is for the compressed model; returns what was carried.

    ``source`` is a safetensors file, a folder that holds one, or a ControlNet's folder. Raises DtkError for what is
    none of these, is of another model, or does not follow from slicing.
    """
    path = _single_file(source) or source
    kind = next((kind for kind in KINDS if kind.recognises(path)), None)
    if kind is None:
        raise DtkError(
            f"dtk does not know what {source} is.",
            found=path.suffix or ("a folder" if path.is_dir() else "a file"),
            expected=f"safetensors of a {', a '.join(kind.KIND for kind in KINDS)}",
        )
    if (target / path.name).resolve() == path.resolve():
        raise UsageError(f"{path} itself would be replaced.", found=f"-o {target}", do="choose another folder with -o")
    return {"source": str(source), **asdict(kind.carry(path, target, pruned))}


def _single_file(source: Path) -> Path | None:
    """The only safetensors file of a folder that is no model. Raises DtkError if nothing is there."""
    if not source.exists():
        raise DtkError(f"No such file or folder: {source}.", expected="a LoRA, a textual inversion or a ControlNet")
    files = list(source.glob("*.safetensors")) if source.is_dir() and not (source / "config.json").is_file() else []
    return files[0] if len(files) == 1 else None
