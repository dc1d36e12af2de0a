"""Whether two states of a run are the same: files, weights, figures; times and what is measured in time left out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from toolkit.core.files import TEMPORARY

TIMES = re.compile(r"seconds|finished|_per_s|_ms|_s$|latency|faster|outputs$|verdict$|profile")
"""Keys of JSON that hold, or depend on, how long something took; ``outputs`` are hashes of files that do."""
TEXTS = (".yaml", ".md", ".txt", ".pbtxt", ".py", "")


def facts(place: Path) -> dict[str, str]:
    """Every file below ``place`` by name, and of JSON every value by its key, as text that equal states share."""
    return {
        name: value.replace(str(place), "PLACE")  # states lie in different folders
        for path in sorted(place.rglob("*"))
        if path.is_file()
        for name, value in _of_file(path, path.relative_to(place).as_posix())
    }


def _of_file(path: Path, name: str) -> Iterator[tuple[str, str]]:
    yield name, "a file"
    if path.suffix == ".json" and "/profile/" not in name:
        yield from _leaves(json.loads(path.read_text()), f"{name}:")
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text().splitlines()):
            yield from _leaves(json.loads(line), f"{name}:{number}")
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="np") as weights:
            for tensor in weights.keys():  # noqa: SIM118
                yield f"{name}:{tensor}", _sha256(weights.get_tensor(tensor).tobytes())
    elif path.suffix in TEXTS:
        yield f"{name}:text", path.read_text()
    elif path.suffix not in (".html", ".json"):
        yield f"{name}:content", _sha256(path.read_bytes())


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The values of nested mappings by their place, a list as one value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not TIMES.search(key):
                yield from _leaves(inner, f"{name}/{key}")
    else:
        yield name, json.dumps(value)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differences(place: Path, expected: Path) -> list[str]:
    """What a state has that the other has not, or otherwise, and what was left half written; a few of each."""
    ours, theirs = facts(place), facts(expected)
    apart = [
        f"{name}: {ours.get(name)} instead of {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    return apart[:10] + [f"left: {path}" for path in place.rglob(f"{TEMPORARY}*")]


def half_written(place: Path) -> list[str]:
    """The files that stand under their own names and cannot be read to their ends."""
    return [
        f"half written: {path}"
        for path in place.rglob("*")
        if path.is_file() and TEMPORARY not in str(path) and not _is_whole(path)
    ]


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np"):
                pass
        elif path.suffix in (".npy", ".npz"):
            np.load(path)
    except Exception:  # each reader has errors of its own
        return False
    return True
