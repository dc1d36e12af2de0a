"""A request in words the loop understands, or the words of its refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .conditions import Condition, labels
from .refusal import RefusedError


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; the values come from the manifest.

    ``classes`` is None if no class is taken, ``prompt_bytes`` if no prompt is, ``max_guidance`` if the model
    has no null condition to lead away from. ``steps`` lists the only numbers of steps that are served; None: all up to
    ``max_steps``.
    """

    max_batch: int
    max_steps: int
    default_steps: int
    classes: int | None = None
    prompt_bytes: int | None = None
    max_guidance: float | None = None
    default_guidance: float = 1.0
    steps: Sequence[int] | None = None


@dataclass(frozen=True)
class Wish:
    """One image: its seed, its number of steps, and what it shall show, by the graph's input name."""

    seed: int
    steps: int
    conditioning: Mapping[str, np.ndarray] = field(default_factory=dict)


Conditioned = Callable[[Condition, float | None], Mapping[str, np.ndarray]]


def wishes(arrays: Mapping[str, np.ndarray | None], limits: Limits, conditioned: Conditioned = labels) -> list[Wish]:
    """The images a request asks for; every array is (B, 1), one row per image, None if it was left out.

    ``conditioned`` makes the graph's inputs of a class or prompt and a guidance scale. Raises RefusedError if an
    array has another form, a value lies outside the limits, or a class or prompt is missing.
    """
    seeds = arrays.get("SEED")
    if seeds is None or len(seeds) == 0:
        raise RefusedError("SEED is missing: it names the images, one seed each.")
    count = len(seeds)
    if count > limits.max_batch:
        raise RefusedError(f"{count} images in one request; the limit is {limits.max_batch}.")
    steps = _column(arrays, "STEPS", count, limits.default_steps)
    if limits.steps is not None and (wrong := sorted(set(steps.tolist()) - set(limits.steps))):
        raise RefusedError(f"STEPS is {wrong[0]}; this model takes {', '.join(map(str, limits.steps))}.")
    _within("STEPS", steps, 1, limits.max_steps)
    scales = _guidance(arrays, count, limits)
    conditions = _conditions(arrays, count, limits)
    return [
        Wish(int(seed), int(number), conditioned(condition, scale))
        for seed, number, condition, scale in zip(
            _column(arrays, "SEED", count), steps, conditions, scales, strict=True
        )
    ]


def _conditions(arrays: Mapping[str, np.ndarray | None], count: int, limits: Limits) -> Sequence[Condition]:
    if limits.prompt_bytes is not None:
        return _prompts(arrays.get("PROMPT"), count, limits.prompt_bytes)
    if limits.classes is None:
        return [None] * count
    if arrays.get("CLASS") is None:
        raise RefusedError(f"CLASS is missing: this model makes images of classes 0 to {limits.classes - 1}.")
    classes = _column(arrays, "CLASS", count)
    _within("CLASS", classes, 0, limits.classes - 1)
    return [int(label) for label in classes]


def _prompts(texts: np.ndarray | None, count: int, longest: int) -> list[str]:
    if texts is None:
        raise RefusedError("PROMPT is missing: this model makes images of a text, which may be empty.")
    if texts.shape != (count, 1) or texts.dtype.kind != "O":
        raise RefusedError(f"PROMPT has shape {list(texts.shape)} and type {texts.dtype}; expected text [{count}, 1].")
    return [_text(bytes(prompt), longest) for prompt in texts[:, 0]]


def _text(prompt: bytes, longest: int) -> str:
    if len(prompt) > longest:
        raise RefusedError(f"PROMPT has {len(prompt)} bytes; the limit is {longest}.")
    try:
        return prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"PROMPT is not valid UTF-8: {error.reason} at byte {error.start}.") from error


def _guidance(arrays: Mapping[str, np.ndarray | None], count: int, limits: Limits) -> list[float | None]:
    column = arrays.get("GUIDANCE")
    if limits.max_guidance is None:
        if column is not None:
            raise RefusedError("GUIDANCE is not taken: this model has no null condition to lead away from.")
        return [None] * count
    if column is None:
        return [limits.default_guidance] * count
    if column.shape != (count, 1) or column.dtype.kind != "f":
        raise RefusedError(
            f"GUIDANCE has shape {list(column.shape)} and type {column.dtype}; expected floats [{count}, 1]."
        )
    _within("GUIDANCE", column[:, 0], 0, limits.max_guidance)
    return [float(scale) for scale in column[:, 0]]


def _column(arrays: Mapping[str, np.ndarray | None], name: str, count: int, default: int | None = None) -> np.ndarray:
    column = arrays.get(name)
    if column is None:
        return np.full(count, default)
    if column.shape != (count, 1) or column.dtype.kind not in "iu":
        raise RefusedError(
            f"{name} has shape {list(column.shape)} and type {column.dtype}; expected integers [{count}, 1]."
        )
    return column[:, 0]


def _within(name: str, values: np.ndarray, least: float, most: float) -> None:
    for value in values:
        if not least <= value <= most:
            raise RefusedError(f"{name} is {value}; expected {least} to {most}.")
