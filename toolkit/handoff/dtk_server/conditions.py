"""What a class or a prompt becomes: the step graph's conditioning inputs, the null condition's included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .manifest import inside

Condition = int | str | None
Arrays = Mapping[str, np.ndarray]
Graph = Callable[[Arrays], Arrays]
UNCONDITIONAL = "unconditional_"
REMEMBERED = 256  # conditions: a prompt that many requests share is encoded once


def labels(condition: Condition, guidance: float | None) -> Arrays:
    """A class that the denoiser embeds itself; nothing if there is no condition. Such a graph has no guidance."""
    return {} if condition is None else {"class_labels": np.array(condition, np.int64)}


class Conditions:
    """Classes and prompts by ``stored``, the manifest's conditioner: its kind, null condition and files.

    ``open_graph`` opens an entry of the manifest.
    """

    def __init__(self, version: Path, stored: Mapping[str, Any], open_graph: Callable[..., Graph]) -> None:
        self._null: Condition = stored["null"]
        self._guided = bool(stored["guided"])
        if stored["kind"] == "label":
            self._encode: Callable[[Condition], Arrays] = lambda condition: labels(condition, None)
            return
        graph = open_graph(stored)
        reads = {
            name: _class if tokenizer is None else _tokens(inside(version, PurePosixPath(tokenizer)))
            for name, tokenizer in stored["inputs"].items()
        }

        def encode(condition: Condition) -> Arrays:
            made = graph({name: read(condition)[None] for name, read in reads.items()})
            return {name: rows[0] for name, rows in made.items()}

        self._encode = lru_cache(REMEMBERED)(encode)

    def __call__(self, condition: Condition, guidance: float | None) -> Arrays:
        """The graph's inputs of one image, without the batch dimension."""
        given = self._encode(condition)
        if not self._guided:
            return given
        null = {f"{UNCONDITIONAL}{name}": array for name, array in self._encode(self._null).items()}
        return {**given, **null, "guidance_scale": np.array(guidance, np.float32)}


def _class(condition: Condition) -> np.ndarray:
    return np.array(condition, np.int64)


def _tokens(path: Path) -> Callable[[Condition], np.ndarray]:
    """Prompts to token ids, padded and cut as the file says. The package is imported only if prompts are taken."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda prompt: np.array(tokenizer.encode(prompt).ids, np.int64)
