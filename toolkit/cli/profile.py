"""``dtk profile``: measure a run, fail on gates, or compare the profiles of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from toolkit.cli.app import Json, RunArgument, app, option

Goal = Literal["latency", "throughput"]


@app.command()
def profile(
    run: RunArgument,
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="[OTHER]...", help="compare the profiles of these runs")
    ] = None,
    runner: Annotated[
        str | None, option("runners, NAME[:DTYPE] by commas: torch,openvino:bf16", default="torch,onnxruntime")
    ] = None,
    baseline: Annotated[
        str | None,
        option("what the dense model ran in before, RUNNER[:DTYPE]; auto: the fastest of torch's here", default="auto"),
    ] = None,
    dtype: Annotated[
        str | None, option("fp32, tf32, fp16 or bf16: of the runners that name none and take one", default="fp32")
    ] = None,
    batch: Annotated[str | None, option("batch sizes, separated by commas: 1,16,64", default="1,16,64")] = None,
    guidance: Annotated[
        float | None, option("classifier-free guidance of the sampling loop; 1 is none", default="1")
    ] = None,
    device: Annotated[str | None, option("cpu or cuda", default="the run's")] = None,
    seconds: Annotated[float | None, option("measure each batch size for about this long", default="4")] = None,
    fail_if: Annotated[
        list[str] | None, option("exit with code 4 on this, such as onnxruntime@64.speedup<1.2; may be repeated")
    ] = None,
    best: Annotated[
        Goal | None, option("choose runner, precision, opset and batch for this, and write them into the recipe")
    ] = None,
    against: Annotated[str | None, option("measure against this diffusers folder instead of the dense model")] = None,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="also compare runs of different machines")
    ] = False,
    json: Json = False,
) -> None:
    """Measure dense against compressed: size, MACs, latency, memory. With OTHER runs: show their profiles together."""
    from toolkit.api import runs, several
    from toolkit.cli.terminal import say, show, show_ending, terminal
    from toolkit.core.errors import UsageError
    from toolkit.report.gates import GateFailedError

    listed: dict[str, Any] = {"runners": runner and runner.split(","), "batches": batch and batch.split(",")}
    listed |= {"baseline": baseline, "dtype": dtype}
    options: dict[str, Any] = {**listed, "guidance": guidance, "device": device, "rounds": {"seconds": seconds}}
    with terminal(quiet=json) as progress:
        if others:
            if any((*listed.values(), guidance, seconds, device, fail_if, best, against)):
                raise UsageError(
                    "Runs that are compared are not measured.", expected="run folders and --across-machines"
                )
            show(several.compare_profiles([run, *others], across_machines=across_machines), json)
            if not json:
                say("Pages: report.html of each run. Next: dtk handoff RUN")
            return
        opened = runs.open_run(run, progress=progress)
        try:
            result = opened.profile(against=against, fail_if=fail_if or (), best=best, **options)
        except GateFailedError as failed:
            show(failed.profile, json)  # type: ignore[arg-type]
            raise
        report = opened.report()
    show(result, json)
    if not json and not against:
        show_ending(report)
    elif not json:
        say(f"\n{result.verdict}\nFigures: {result.folder}/profile.json. Next: dtk report {run}")
