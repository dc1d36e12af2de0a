"""``dtk profile``: measure a run, hold it to conditions, or lay several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.app import Json, RunFolder, app, option

if TYPE_CHECKING:
    from profiles.conditions import Condition
    from toolkit.pipeline import Job


@app.command()
def profile(
    run: RunFolder,
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="[OTHER]...", help="compare the profiles of these runs")
    ] = None,
    runner: Annotated[str | None, option("runners, by comma: torch,onnxruntime")] = None,
    batch: Annotated[str | None, option("batch sizes, by comma: 1,16,64")] = None,
    guidance: Annotated[float | None, option("classifier-free guidance of the sampling loop; 1 is none [1]")] = None,
    device: Annotated[str | None, option("cpu or cuda [the run's]")] = None,
    seconds: Annotated[float | None, option("measure each batch size for about this long [4]")] = None,
    fail_if: Annotated[list[str] | None, option("exit 4 on onnxruntime@64.speedup<1.2, say; may be repeated")] = None,
    against: Annotated[str | None, option("measure against this diffusers folder in the dense model's place")] = None,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="compare runs of different machines all the same")
    ] = False,
    json: Json = False,
) -> None:
    """Measure dense against compressed: size, MACs, latency, memory. With OTHER runs: show their profiles together."""
    from toolkit.cli.terminal import terminal
    from toolkit.errors import UsageError

    if others:
        with terminal(quiet=json):
            if runner or batch or guidance or seconds or device or fail_if or against:
                raise UsageError(
                    "Runs that are compared are not measured.", expected="run folders and --across-machines"
                )
        _compare([run, *others], across_machines, json)
    else:
        listed = {"runners": runner and runner.split(","), "batches": batch and batch.split(",")}
        changes: dict[str, Any] = {**listed, "guidance": guidance, "device": device}
        changes["rounds"] = {"seconds": seconds}
        _measure(run, changes, fail_if or [], against, json)


def _compare(runs: list[Path], across_machines: bool, json: bool) -> None:
    from toolkit import pipeline
    from toolkit.cli import checks
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json):
        found = pipeline.compare(runs, across_machines=across_machines)
    show(found, json, checks.runs)


def _measure(path: Path, changes: dict[str, Any], fail_if: list[str], against: str | None, json: bool) -> None:
    from profiles.conditions import hold, parse
    from toolkit import asked, pipeline
    from toolkit.cli import checks, tables
    from toolkit.cli.terminal import show, terminal

    with terminal(quiet=json) as told, pipeline.held(path):
        conditions = [parse(text) for text in fail_if]
        job = pipeline.take_up(path, told.progress, told.notice)
        settings = asked.settings_for(job, "profile", **changes)
        job = asked.with_settings(job, "profile", settings)
        _check_measurable(job, conditions)
        value = pipeline.profile_against(job, against) if against else pipeline.profile(job)
        if not against:
            job.recipe.write(path / "recipe.yaml")
        stages = pipeline.report(job)["stages"] | {"profile": value}
    show(value, json, checks.against if against else tables.profile)
    with terminal(quiet=json):
        hold(conditions, stages)


def _check_measurable(job: Job, conditions: list[Condition]) -> None:
    """Refuse, before minutes of measuring, a condition on what this command will not measure."""
    from toolkit import pipeline
    from toolkit.errors import DtkError, UsageError

    settings, stale = job.recipe.profile, pipeline.stale(job)
    for condition in conditions:
        if condition.stage != "profile":
            job.run.require(condition.stage, f"dtk {condition.stage} {job.run.path}")
            if condition.stage in stale:
                found = f"its {condition.stage} stage is of an earlier model"
                command = f"dtk {condition.stage} {job.run.path}"
                raise DtkError(f"Cannot decide {condition.text!r}.", found=found, do=command)
        elif settings and condition.runner not in settings.runners:
            raise UsageError(f"Cannot decide {condition.text!r}.", expected=f"--runner with {condition.runner} in it")
        elif settings and condition.batch and condition.batch not in settings.batches:
            raise UsageError(f"Cannot decide {condition.text!r}.", expected=f"--batch with {condition.batch} in it")
