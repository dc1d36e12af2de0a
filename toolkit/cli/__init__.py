"""The command line: each command parses, calls one function of the Python API, and prints what it found."""

from __future__ import annotations

from toolkit.cli import compress, convert, inform, profile, stages, sweep  # each module adds its commands to the app
from toolkit.cli.app import app

__all__ = ["app", "compress", "convert", "inform", "profile", "stages", "sweep"]
