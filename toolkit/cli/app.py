"""The command line's root and what its commands share. Nothing heavy is imported: ``dtk --help`` needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import toolkit
from toolkit.core import processes

app = typer.Typer(
    name="dtk",
    help="Make a trained diffusion model half as large, measure what that gained, and hand it to a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for library in ("DIFFUSERS", "TRANSFORMERS"):  # read when they are imported; what matters of it dtk says itself
    os.environ.setdefault(f"{library}_VERBOSITY", "error")
TOGETHER = ("recover", "evaluate")
"""The commands that the processes of a launcher share."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dtk {toolkit.__version__}")
        raise typer.Exit


@app.callback()
def launched(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Refuse a launcher if every one of its processes would do, and write, the same."""
    if processes.count() > 1 and context.invoked_subcommand not in TOGETHER:
        if processes.is_main():
            sys.stderr.write(
                f"Error: dtk {context.invoked_subcommand} runs in one process.\n"
                f"  found: a launcher with {processes.count()} processes\n"
                f"  expected: one process; under `accelerate launch` only: {', '.join(TOGETHER)}\n"
                "  do: dtk compress --no-recover -o RUN, then accelerate launch -m toolkit recover RUN\n"
            )
        raise typer.Exit(2)


RunArgument = Annotated[
    Path, typer.Argument(help="run folder that `dtk compress` or `dtk run` made", show_default=False)
]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="run folder to write", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace a run of another recipe")]


def option(help_text: str, *names: str, default: str | None = None) -> Any:
    """An option whose default is the recipe's; ``default`` says which it is."""
    return typer.Option(*names, help=help_text, show_default=default or False)
