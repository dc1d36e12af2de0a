"""Commands that tell: what a run found, what dtk knows; and the one that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import Json, RunFolder, app, option


@app.command()
def report(run: RunFolder, json: Json = False) -> None:
    """Say what a run found, and write it as one page: RUN/report.html."""
    from toolkit import pipeline
    from toolkit.cli import tables
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json) as told, pipeline.held(run):
        value = pipeline.report(pipeline.take_up(run, told.progress, told.notice))
        told.console.print(f"The page: {run / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    show(value, json, tables.report)


@app.command(name="list")
def list_known(
    kind: Annotated[str, typer.Argument(help="criteria, adapters, runners, exporters, samplers or losses")],
    json: Json = False,
) -> None:
    """List what dtk knows."""
    from toolkit.cli.terminal import show, terminal
    from toolkit.known import known

    with terminal(quiet=json):
        found = known(kind)
    show(found, json, lambda names: (f"{name:<18} {what}" for name, what in names.items()))


@app.command()
def doctor(json: Json = False) -> None:
    """Say whether what is installed fits together, and which runners would run here; exit code 1 on a conflict."""
    from toolkit.cli import checks
    from toolkit.cli.terminal import show, terminal
    from toolkit.doctor import examine

    with terminal(quiet=json):
        found = examine()
    show(found, json, checks.doctor)
    raise typer.Exit(0 if found["ok"] else 1)


@app.command()
def serve(
    run: RunFolder,
    host: Annotated[str | None, option("address to bind [127.0.0.1]")] = None,
    http_port: Annotated[int | None, option("HTTP port; 0 takes a free one [8000]")] = None,
    grpc_port: Annotated[int | None, option("gRPC port [8001]")] = None,
    metrics_port: Annotated[int | None, option("port of the metrics [8002]")] = None,
    environment: Annotated[Path | None, option("virtual environment that holds nvidia-pytriton")] = None,
    ready_timeout: Annotated[float | None, option("seconds that loading and warming up may take [600]")] = None,
) -> None:
    """Serve RUN/handoff with a real tritonserver until Ctrl-C or SIGTERM."""
    from toolkit import pipeline
    from toolkit.cli.terminal import terminal

    with terminal() as told:
        code = pipeline.serve(
            run,
            lambda server: told.console.print(f"Serving on http://{server.http} (gRPC {server.grpc}). Ctrl-C ends it."),
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            environment=environment,
            ready_timeout_s=ready_timeout,
        )
    raise typer.Exit(code)
