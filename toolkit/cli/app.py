"""The command line's root and what its commands share. Nothing heavy is imported: ``dtk --help`` needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="dtk",
    help="Make a trained diffusion model half as large, prove what that won, and hand it to a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="run folder that `dtk compress` or `dtk run` made", show_default=False)]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="run folder to write", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace a run of another recipe")]


def option(help_text: str, *names: str) -> Any:
    """An option whose default is the recipe's."""
    return typer.Option(*names, help=help_text, show_default=False)
