"""Which of a launcher's processes this is; `accelerate launch` and `torchrun` say so in the environment."""

from __future__ import annotations

import os


def count() -> int:
    """How many processes work on the same command; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """The number of this one."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the one that writes and speaks."""
    return index() == 0
