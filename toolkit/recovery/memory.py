"""What to say when memory runs out: how many images at once would have fit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from toolkit.core.errors import DtkError


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the host, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int:
    """The largest of size/2, size/4, ... 1 for which ``attempt`` does not run out of memory; 0 if none."""
    while size := size // 2:
        try:
            attempt(size)
            return size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0


def out_of_memory(step: int, requested: int, fits: int | None) -> DtkError:
    """The error of a step that requested ``requested`` images at once if ``fits`` would do; None is not tried."""
    if fits == 0 or requested == 1:
        return DtkError(
            f"Out of memory at step {step}.",
            found=f"{requested} images at once, and a single one does not fit either",
            do="use a device with more memory, or leave out the losses that need a teacher",
        )
    return DtkError(
        f"Out of memory at step {step}.",
        found=f"{requested} images at once",
        expected=f"{fits} at once, which fit" if fits else f"fewer at once, such as {requested // 2}",
        do=f"set recover.micro_batch_size={fits or requested // 2}: a batch's gradients then add up in parts",
    )
