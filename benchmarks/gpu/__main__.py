"""What a GPU machine is asked in its first half hour, in numbered pieces of at most nine minutes.

``run`` does the next pieces until the minutes end (exit code 75: there is more; the same command continues). Each
piece is a process of its own whose result, or whose failure, is kept at once in benchmarks/results. ``pack`` makes
parts of what a machine without a package index lacks, and a program that joins them there. ``--toy`` runs every piece
at a size for a processor.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cifar10.pieces import MORE
from benchmarks.gpu.pieces import Study, numbered
from benchmarks.gpu.process import run_piece

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Work = Annotated[Path, typer.Option(help="where runs and prepared data lie")]
Results = Annotated[Path, typer.Option(help="where results are kept")]
Minutes = Annotated[float, typer.Option(help="stop after this long; the same command continues")]
Toy = Annotated[bool, typer.Option("--toy", help="the smallest size that is still real")]
WORK, RESULTS = Path("runs/gpu"), Path(__file__).parents[1] / "results"


@app.command("list")
def show(results: Results = RESULTS) -> None:
    """The pieces, and which of them are done."""
    for number, piece in numbered().items():
        state = "done" if (results / f"{piece.file(number)}.json").is_file() else "open"
        typer.echo(f"{number:2} {piece.name:24} {state}")


@app.command()
def run(
    numbers: Annotated[list[int] | None, typer.Argument(help="only these pieces; done ones again")] = None,
    work: Work = WORK,
    results: Results = RESULTS,
    minutes: Minutes = 9,
    toy: Toy = False,
) -> None:
    """Do the pieces that are not done, in order, until the minutes end."""
    end = time.monotonic() + 60 * minutes
    for number, piece in numbered().items():
        target = results / f"{piece.file(number)}.json"
        if number not in numbers if numbers else target.is_file():
            continue
        left_s = end - time.monotonic()
        if left_s <= 0 or not run_piece(number, piece, target, work, results, left_s, toy):
            typer.echo("The minutes are up; the same command continues.")
            raise typer.Exit(MORE)
    table(results)


@app.command(hidden=True)
def piece(number: int, work: Work, results: Results, minutes: Minutes, toy: Toy = False) -> None:
    """One piece in this process; its result goes to standard output."""
    import json

    found = numbered()[number].do(Study(work, results, minutes, toy))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


@app.command()
def table(results: Results = RESULTS) -> None:
    """All that was found, as Markdown."""
    from benchmarks.gpu.table import lines

    typer.echo("\n".join(lines(results)))


@app.command()
def pack(
    kind: Annotated[str, typer.Argument(help="python, ort, rtx or trt86; or a folder of data")],
    out: Path,
    part_mib: Annotated[int, typer.Option(help="the largest part")] = 58,
    architecture: Annotated[int | None, typer.Option(help="of a KIND, the GPUs it is for, such as 90")] = None,
) -> None:
    """Write OUT/part-NN, what KIND needs elsewhere, and OUT/unpack.py, which joins it with Python alone."""
    from benchmarks.gpu.pack import pack as write

    for path in write(kind, out, part_mib * 2**20, architecture):
        typer.echo(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    app()
