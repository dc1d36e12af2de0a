"""What an interrupted export leaves for the next one: whole files, and the calls of networks that took long."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256, read_json, replacing

KEPT_S = 0.2  # a call that took longer is kept: less costs more to write than to repeat
Call = Callable[..., Any]
"""Gives a tensor, or several by name."""
ONE = ""  # the name of the only one


def is_whole(path: Path) -> bool:
    """Whether an exported file is there as its description (.json, written last) says."""
    try:
        hashes: dict[str, str] = read_json(path.with_suffix(".json"))["sha256"]
        return all(file_sha256(path.parent / name) == sha256 for name, sha256 in hashes.items())
    except (DtkError, OSError, KeyError, TypeError):
        return False


class KeptCalls:
    """Results of calls by who was called and with what, in ``folder``; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def around(self, who: str, call: Call, notes: MutableMapping[str, float] | None = None) -> Call:
        """``call`` with a memory: ``who`` names it by all that its results depend on besides its inputs.

        ``notes`` is what it writes down besides, numbers that only grow: they are kept with each result.
        """
        if self.folder is None:
            return call
        folder, notes = self.folder / hashlib.sha256(who.encode()).hexdigest()[:16], {} if notes is None else notes

        def kept(*inputs: torch.Tensor, **named: torch.Tensor) -> Any:
            given = {str(place): tensor for place, tensor in enumerate(inputs)} | named
            path = folder / f"{_inputs_sha256(given)}.safetensors"
            if path.is_file():
                return _read(path, notes)
            started = time.monotonic()
            result = call(*inputs, **named)
            if time.monotonic() - started > KEPT_S:
                tensors = {ONE: result} if isinstance(result, torch.Tensor) else result
                contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
                with replacing(path) as temporary:
                    save_file(contiguous, temporary, {"notes": json.dumps(dict(notes))})
            return result

        return kept


def _inputs_sha256(inputs: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(inputs.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, notes: MutableMapping[str, float]) -> Any:
    with safe_open(path, "pt") as stored:
        for name, value in json.loads(stored.metadata()["notes"]).items():
            notes[name] = max(value, notes.get(name, value))
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return tensors.get(ONE, tensors)
