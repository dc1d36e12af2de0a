"""The command line: each command parses, calls one function of the pipeline, and says what came of it."""

from toolkit.cli import compress, convert, profile, say, stages, sweep  # each module adds its commands to the app
from toolkit.cli.app import app

__all__ = ["app", "compress", "convert", "profile", "say", "stages", "sweep"]
