"""A request in words the loop understands, or the words of its refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .refusal import RefusedError


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; the values come from the manifest."""

    max_batch: int
    max_steps: int
    default_steps: int
    classes: int | None = None


@dataclass(frozen=True)
class Wish:
    """One image: its seed, its number of steps, and what it shall show, by the graph's input name."""

    seed: int
    steps: int
    conditioning: Mapping[str, np.ndarray] = field(default_factory=dict)


def wishes(arrays: Mapping[str, np.ndarray | None], limits: Limits) -> list[Wish]:
    """The images a request asks for; every array is (B, 1), one row an image, None where it was left out.

    Raises RefusedError where an array has another form, a value lies outside the limits, or a class is missing.
    """
    seeds = arrays.get("SEED")
    if seeds is None or len(seeds) == 0:
        raise RefusedError("SEED is missing: it names the images, one seed each.")
    count = len(seeds)
    if count > limits.max_batch:
        raise RefusedError(f"{count} images in one request; the limit is {limits.max_batch}.")
    steps = _column(arrays, "STEPS", count, limits.default_steps)
    _within("STEPS", steps, 1, limits.max_steps)
    conditioning = _classes(arrays, count, limits)
    return [
        Wish(int(seed), int(number), {name: rows[row] for name, rows in conditioning.items()})
        for row, (seed, number) in enumerate(zip(_column(arrays, "SEED", count), steps, strict=True))
    ]


def _classes(arrays: Mapping[str, np.ndarray | None], count: int, limits: Limits) -> dict[str, np.ndarray]:
    if limits.classes is None:
        return {}
    if arrays.get("CLASS") is None:
        raise RefusedError(f"CLASS is missing: this model makes images of classes 0 to {limits.classes - 1}.")
    labels = _column(arrays, "CLASS", count)
    _within("CLASS", labels, 0, limits.classes - 1)
    return {"class_labels": labels.astype(np.int64)}


def _column(arrays: Mapping[str, np.ndarray | None], name: str, count: int, default: int | None = None) -> np.ndarray:
    found = arrays.get(name)
    if found is None:
        return np.full(count, default)
    if found.shape != (count, 1) or found.dtype.kind not in "iu":
        raise RefusedError(
            f"{name} has shape {list(found.shape)} and type {found.dtype}; expected integers [{count}, 1]."
        )
    return found[:, 0]


def _within(name: str, values: np.ndarray, least: int, most: int) -> None:
    for value in values:
        if not least <= value <= most:
            raise RefusedError(f"{name} is {value}; expected {least} to {most}.")
