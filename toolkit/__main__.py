"""``python -m toolkit`` is ``dtk``."""

from toolkit.cli import app

app()
