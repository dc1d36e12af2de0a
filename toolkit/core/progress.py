"""How a stage says how far it is; only the command line prints."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with ``done`` of ``total`` steps of a named piece of work; a piece ends when done equals total."""

    def __call__(self, work: str, done: int, total: int) -> None: ...


def silent(work: str, done: int, total: int) -> None:
    """A listener that says nothing."""
