"""Scores on disk, so that another target needs no second scoring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolkit.pruning.scoring import Scored

Scorings = Mapping[float, Scored]


def write_scores(path: Path, scorings: Scorings, key: str) -> None:
    """Write every threshold's scores to one safetensors file; ``key`` says what they were computed from."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors = {
        f"{threshold!r}/{part}/{name}": values
        for threshold, scored in scorings.items()
        for part, scores in (("all", scored.scores), *((f"half {i}", half) for i, half in enumerate(scored.halves)))
        for name, values in scores.items()
    }
    facts = {repr(threshold): dict(scored.facts) for threshold, scored in scorings.items()}
    try:
        save_file(tensors, path, metadata={"key": key, "facts": json.dumps(facts)})
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(str(error)) from error


def read_scores(path: Path, key: str | None = None) -> Scorings | None:
    """The scores in the file, None if there is no file or it holds scores of something else than ``key``."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if key not in (None, metadata.get("key")):
                return None
            scores: dict[float, dict[str, dict[str, np.ndarray]]] = {}
            for entry in sorted(file.keys()):
                threshold, part, name = entry.split("/", 2)
                scores.setdefault(float(threshold), {}).setdefault(part, {})[name] = file.get_tensor(entry)
    except SafetensorError:  # a damaged cache is no loss: it is computed again
        return None
    facts = json.loads(metadata["facts"])
    return {
        threshold: Scored(parts.pop("all"), facts[repr(threshold)], tuple(parts.values()))
        for threshold, parts in scores.items()
    }
