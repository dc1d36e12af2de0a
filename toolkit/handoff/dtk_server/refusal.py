"""What a server answers to a request it will not serve, and why it will not start."""

from __future__ import annotations


class RefusedError(ValueError):
    """A request outside the limits: the text goes to the client."""


class UnfitError(RuntimeError):
    """The files or this machine's software do not fit the manifest: the model does not load."""
