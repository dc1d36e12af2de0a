"""``dtk report``, ``list``, ``doctor`` and ``serve``: what a run found, what dtk knows, what fits, and a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.app import Json, RunArgument, app, option

if TYPE_CHECKING:
    from toolkit.handoff.server import Server


@app.command()
def report(run: RunArgument, json: Json = False) -> None:
    """Print what a run found, and write it as one page: RUN/report.html."""
    from toolkit.api import runs
    from toolkit.cli.terminal import show, show_ending, terminal

    with terminal(quiet=json) as progress:
        result = runs.open_run(run, progress=progress).report()
    show(result, json)
    if not json:
        show_ending(result)


NEXT = {
    "criteria": "dtk compress MODEL --criterion NAME -o RUN",
    "adapters": "dtk compress MODEL --dry-run",
    "runners": "dtk profile RUN --runner NAME",
    "exporters": "dtk export RUN --also NAME",
    "samplers": "dtk evaluate RUN --sampler NAME",
    "losses": "dtk run RECIPE --set recover.losses.NAME=1",
    "teaching": "dtk recover RUN --sampling-steps 4 --teaching NAME",
    "extractors": "dtk evaluate RUN --features NAME",
}


@app.command(name="list")
def list_known(
    kind: Annotated[
        str | None,
        typer.Argument(help="criteria, adapters, runners, exporters, samplers, losses, teaching, extractors"),
    ] = None,
    json: Json = False,
) -> None:
    """List what can be named in other commands."""
    from toolkit.api.catalog import known
    from toolkit.cli.terminal import say, show, terminal
    from toolkit.core.errors import UsageError

    with terminal(quiet=json):
        if kind is None:
            raise UsageError("No kind was given.", expected=f"one of {', '.join(NEXT)}")
        result = known(kind)
    show(result, json)
    if not json:
        say(f"\n{len(result.names)} {kind} are known here. Next: {NEXT[kind]}")


@app.command()
def doctor(json: Json = False) -> None:
    """Check whether what is installed fits together, and which runners would run here; exit code 1 on a conflict."""
    from toolkit.api.doctor import doctor as examine
    from toolkit.cli.terminal import say, show, terminal

    with terminal(quiet=json):
        result = examine()
    show(result, json)
    if not json:
        say("Next: dtk compress MODEL --data IMAGES -o RUN" if result.ok else "Next: the fixes behind -> above")
    raise typer.Exit(0 if result.ok else 1)


@app.command()
def serve(
    run: RunArgument,
    host: Annotated[str | None, option("address to bind", default="127.0.0.1")] = None,
    http_port: Annotated[int | None, option("HTTP port; 0 takes a free one", default="8000")] = None,
    grpc_port: Annotated[int | None, option("gRPC port", default="8001")] = None,
    metrics_port: Annotated[int | None, option("port of the metrics", default="8002")] = None,
    environment: Annotated[Path | None, option("virtual environment that holds nvidia-pytriton")] = None,
    ready_timeout: Annotated[
        float | None, option("seconds that loading and warming up may take", default="600")
    ] = None,
) -> None:
    """Serve RUN/handoff with a real tritonserver until Ctrl-C or SIGTERM."""
    from toolkit.api import runs
    from toolkit.cli.terminal import terminal

    ports: dict[str, Any] = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    listening = ports | {"host": host, "environment": environment, "ready_timeout_s": ready_timeout}
    with terminal() as progress:

        def ready(server: Server) -> None:
            progress.say(f"Serving on http://{server.http} (gRPC {server.grpc}). Ctrl-C ends it.")

        code = runs.open_run(run).serve(ready, **listening)
        progress.say(f"The server has stopped with exit code {code}. Its log: {run}/serve.log. Next: dtk serve {run}")
    raise typer.Exit(code)
