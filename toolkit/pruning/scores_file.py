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

    tensors = {f"{t!r}/{name}": values for t, s in scorings.items() for name, values in s.scores.items()}
    facts = {repr(threshold): dict(scored.facts) for threshold, scored in scorings.items()}
    try:
        save_file(tensors, path, metadata={"key": key, "facts": json.dumps(facts)})
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(str(error)) from error


def read_scores(path: Path, key: str) -> Scorings | None:
    """The scores in the file, None if there is no file or it holds scores of something else."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            scores: dict[float, dict[str, np.ndarray]] = {}
            for entry in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                threshold, _, name = entry.partition("/")
                scores.setdefault(float(threshold), {})[name] = file.get_tensor(entry)
    except SafetensorError:  # a damaged cache is no loss: it is computed again
        return None
    facts = json.loads(metadata["facts"])
    return {threshold: Scored(values, facts[repr(threshold)]) for threshold, values in scores.items()}
