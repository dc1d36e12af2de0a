"""The study, one command a step: prepare, dense, row, latency, costs, table.

``dense`` and ``row`` stop after ``--minutes`` with exit code 75; the same command continues. On a machine without a
GPU, ``--toy`` runs every step at a size that takes a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.cifar10.pieces import Pieces
from benchmarks.cifar10.rows import ROWS, dense_recipe, recipe
from benchmarks.cifar10.shapes import SHAPES
from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Work = Annotated[Path, typer.Option(help="where runs and prepared data lie")]
Results = Annotated[Path, typer.Option(help="where results are kept")]
Minutes = Annotated[float, typer.Option(help="stop after this long; the same command continues")]
Toy = Annotated[bool, typer.Option("--toy", help="the smallest size that is still real")]
WORK, RESULTS = Path("runs/cifar10"), Path(__file__).parents[1] / "results"


def device() -> str:
    """The GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@app.command()
def prepare(images: Path, resnet: Path, work: Work = WORK, toy: Toy = False) -> None:
    """Make data and features: IMAGES is a folder of sheets and labels.npz, RESNET the weights resnet56-*.th."""
    from benchmarks.cifar10.features import write_script
    from benchmarks.cifar10.images import write_npz

    counts = write_npz(images, work / "data", 64 if toy else None)
    write_script(resnet, work / "ResNet-56.pt")
    typer.echo(f"{work}: {counts['train']} images to train on, {counts['reference']} to judge by")


@app.command()
def dense(
    steps: int = 100_000,
    every: Annotated[int, typer.Option(help="judge the model each time after that many steps")] = 20_000,
    weights: Annotated[Path | None, typer.Option(help="continue from these shards (see `pack`)")] = None,
    compiled: Annotated[bool, typer.Option("--compiled/--eager", help="torch.compile, on a GPU alone")] = True,
    minutes: Minutes = 9,
    work: Work = WORK,
    results: Results = RESULTS,
    toy: Toy = False,
) -> None:
    """Train the dense DDPM (35.7 M parameters) with dtk's own loop; the result is WORK/dense/model."""
    from benchmarks.cifar10.curve import add_point, steps_done
    from benchmarks.cifar10.shapes import write_shape
    from benchmarks.cifar10.weights import unpack

    start, data, features, on_gpu = work / "start", work / "data", work / "ResNet-56.pt", device() == "cuda"
    if weights is None:
        write_shape("cifar10-32", start, toy)
    elif not start.is_dir():
        unpack(weights, start)
    sort = {"fresh": weights is None, "toy": toy, "compiled": compiled and on_gpu, "on_gpu": on_gpu}
    pieces = Pieces(minutes)
    for leg in legs(steps, every, done=steps_done(work / "dense")):
        values = dense_recipe(start, data, features, steps=leg, **sort)
        pieces.dtk("run", _write(work / "dense.yaml", values), "-o", work / "dense")
        add_point(results / "cifar10-dense.json", work / "dense", toy, device())


def legs(steps: int, every: int, done: int = 0) -> list[int]:
    """Where training is judged: after each ``every`` steps and at the end; of those done already the last alone."""
    return [leg for leg in [*range(every, steps, every), steps] if leg >= done]


@app.command()
def pack(folder: Path, work: Work = WORK) -> None:
    """Write the dense model's averaged weights into FOLDER as fp16 shards of at most 15 MB, for another machine."""
    from benchmarks.cifar10.weights import pack as write

    for path in write(work / "dense" / "model", folder):
        typer.echo(f"{path} {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def row(
    name: Annotated[str, typer.Argument(help=", ".join(ROWS))],
    steps: int = 20_000,
    seed: int = 0,
    minutes: Minutes = 9,
    work: Work = WORK,
    results: Results = RESULTS,
    toy: Toy = False,
) -> None:
    """Prune, recover and judge one row of the table, against the dense model of WORK/dense/model."""
    if name not in ROWS:
        raise typer.BadParameter(f"{name}: known are {', '.join(ROWS)}")
    model = work / "dense" / "model"
    if not model.is_dir():
        raise typer.BadParameter(f"no dense model in {model}: run `dense` first")
    features, on_gpu = work / "ResNet-56.pt", device() == "cuda"
    values = recipe(name, model, work / "data", features, steps=steps, seed=seed, toy=toy, on_gpu=on_gpu)
    run = work / "rows" / f"{name}-seed{seed}"
    Pieces(minutes).dtk("run", _write(work / "rows" / f"{name}-seed{seed}.yaml", values), "-o", run)
    facts = {
        "row": name,
        "seed": seed,
        "steps": steps,
        "toy": toy,
        "plan": {key: read_json(run / "prune" / "plan.json")[key] for key in ("requested", "achieved", "dense")},
        "evaluate": read_json(run / "evaluate" / "metrics.json"),
        "machine": machine(device()),
        "versions": versions(),
    }
    write_json(results / f"cifar10-row-{name}-seed{seed}.json", facts)


@app.command()
def latency(
    shape: Annotated[str, typer.Argument(help=", ".join(SHAPES))],
    minutes: Minutes = 9,
    work: Work = WORK,
    results: Results = RESULTS,
    toy: Toy = False,
) -> None:
    """Latency of one of the paper's shapes, dense and compressed, in every runner available; random weights."""
    from benchmarks.cifar10.latency import measure

    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape}: known are {', '.join(SHAPES)}")
    measure(shape, work, results, Pieces(minutes), device=device(), toy=toy)


@app.command()
def costs(work: Work = WORK, results: Results = RESULTS, toy: Toy = False) -> None:
    """What scoring and recovery cost on the dense model beside plain loops, as ratios of times taken interleaved."""
    from benchmarks import scoring_speed, throughput

    source = [str(work / "dense" / "model"), "--data", str(work / "data" / "train.npz")]
    least = ["--seconds", "0.1", "--rounds", "6"] if toy else []
    scoring = ["--images", "4", "--timesteps", "2"] if toy else ["--images", "128"]
    training = ["--batch", "4", "--steps", "1"] if toy else ["--batch", "128"]
    for name, program, size in (("scoring", scoring_speed, scoring), ("recovery", throughput, training)):
        program.main([*source, *least, *size, "--output", str(results / f"cifar10-cost-{name}.json")])


@app.command()
def table(results: Results = RESULTS) -> None:
    """The tables of benchmarks/README.md from the results at hand."""
    from benchmarks.cifar10.table import cost_table, dense_table, latency_table, row_table

    for lines in (dense_table, row_table, latency_table, cost_table):
        typer.echo("\n".join([*lines(results), ""]))


def _write(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    app()
