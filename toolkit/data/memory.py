"""Images as they lie in a program's memory: arrays, tensors, and whatever yields images one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress, silent
from toolkit.data.conditions import COLUMNS, Condition, Kind, checked
from toolkit.data.examples import Examples
from toolkit.data.open import open_images
from toolkit.data.prepare import COVER, UnreadableImageError, prepare

if TYPE_CHECKING:
    import torch

Data: TypeAlias = "str | Path | np.ndarray | torch.Tensor | Iterable[Any] | None"
"""A path or hub data set; an array or tensor (N, C, H, W); an iterable of images, such as a torch or `datasets` data
set; None is the embedded default."""
ValueRange = tuple[float, float] | Literal["latents"]
"""The values that stand for black and white, or "latents" for latents as the denoiser takes them."""


class ArrayExamples:
    """Images in [-1, 1], or latents, float32 (N, C, H, W) in memory; ``values`` are their conditions by kind."""

    source = "the data given in memory"
    skipped: tuple[str, ...] = ()

    def __init__(self, items: np.ndarray, values: dict[Kind, tuple[Condition, ...]]) -> None:
        self.items, self.values = items, values

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(str(self.items.shape).encode() + self.items.tobytes()).hexdigest()

    fingerprint = sha256

    def prepare(self, progress: Progress = silent, *, mirrored: bool = False) -> None:
        """Nothing: they lie in memory."""

    def read(self, indices: Sequence[int], mirrored: Sequence[bool] = ()) -> np.ndarray:
        items = self.items[list(indices)].copy()
        for row, flip in enumerate(mirrored):
            items[row] = items[row][..., ::-1] if flip else items[row]
        return items

    def conditions(self, kind: Kind, indices: Sequence[int]) -> list[Condition]:
        values = self.values.get(kind)
        return [None if values is None else values[index] for index in indices]


def open_examples(
    data: Data,
    shape: tuple[int, int, int],
    value_range: ValueRange | None,
    conditions: Sequence[Condition] | None,
    progress: Progress = silent,
) -> Examples:
    """``data`` as examples of ``shape`` (C, H, W); see ``toolkit.prune``. Raises UsageError for what does not fit."""
    if data is None or isinstance(data, str | Path):
        return open_images(data, shape, progress)
    if _is_array(data):
        items, given = _scaled(np.asarray(data), value_range), conditions
    else:
        pairs = [_of_item(item, shape, value_range) for item in data]
        items = np.stack([image for image, _ in pairs]) if pairs else np.empty((0, *shape), np.float32)
        given = [condition for _, condition in pairs] if conditions is None else conditions
    if items.ndim != 4 or items.shape[1:] != shape:
        raise UsageError("The data does not fit the model.", found=items.shape, expected=f"(N, {shape})")
    return ArrayExamples(items, _by_kind(given, len(items)))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, Image.Image)  # arrays and tensors


def _scaled(values: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """Values as the model takes them, float32: in [-1, 1], or latents as they are."""
    if value_range == "latents":
        return values.astype(np.float32)
    if value_range is None and values.dtype == np.uint8:
        value_range = (0, 255)
    if value_range is None:
        raise UsageError(
            "The range of the data's values is not known.",
            found=f"an array of {values.dtype}",
            do='give value_range=(0, 1), (-1, 1) or the like; "latents" for latents as the denoiser takes them',
        )
    low, high = value_range
    if values.size and not low <= float(values.min()) <= float(values.max()) <= high:
        raise UsageError(
            "The data's values are not in their range.",
            found=f"{values.min():g} to {values.max():g}",
            expected=f"{low:g} to {high:g}",
        )
    return ((values.astype(np.float32) - low) * (2 / (high - low)) - 1).astype(np.float32)


def _of_item(item: Any, shape: tuple[int, int, int], value_range: ValueRange | None) -> tuple[np.ndarray, Condition]:
    """The image (C, H, W) of an element of a data set, and its class or caption if it has one."""
    condition: Condition = None
    if isinstance(item, dict):
        names = [name for columns in COLUMNS.values() for name in columns if name in item]
        condition = item[names[0]] if names else None
        images = [item[name] for name in ("image", "img", "pixel_values") if name in item]
        item = images[0] if images else None
    elif isinstance(item, tuple | list):
        item, condition = item[0], item[1] if len(item) > 1 else None
    if isinstance(item, Image.Image):
        try:
            return _scaled(prepare(item, shape, COVER).pixels.transpose(2, 0, 1), None), condition
        except UnreadableImageError as error:
            raise UsageError("An image of the data cannot be used.", found=error) from error
    if not _is_array(item):
        raise UsageError(
            "An element of the data holds no image.",
            found=type(item).__name__,
            expected="a PIL image or an array (C, H, W), alone, in a tuple (image, class), or in a dict as 'image'",
        )
    return _scaled(np.asarray(item), value_range), condition


def _by_kind(conditions: Sequence[Condition] | None, count: int) -> dict[Kind, tuple[Condition, ...]]:
    if conditions is None or all(condition is None for condition in conditions):
        return {}
    if len(conditions) != count:
        raise UsageError("There is not one condition per image.", found=len(conditions), expected=count)
    kind: Kind = "caption" if any(isinstance(condition, str) for condition in conditions) else "class"
    plain = [getattr(c, "item", lambda c=c: c)() for c in conditions]
    return {kind: checked(kind, plain, "conditions")}
