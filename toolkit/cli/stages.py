"""One command per stage, on the run folder of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.app import Json, RunArgument, app, option


def _stage(folder: Path, stage: str, json: bool, **options: Any) -> Any:
    """Run one stage of an existing run with changed settings and show what it found; only the main process prints.

    Returns the result.
    """
    from toolkit.api import runs
    from toolkit.cli.terminal import show, show_ending, terminal
    from toolkit.core import processes

    with terminal(quiet=json) as progress:
        run = runs.open_run(folder, progress=progress)
        result = getattr(run, stage)(**options)
        if not processes.is_main():
            return result
        report = run.report()
    show(result, json)
    if not json:
        show_ending(report)
    return result


@app.command()
def recover(
    run: RunArgument,
    steps: Annotated[int | None, option("train up to this many steps in all")] = None,
    seed: Annotated[int | None, option("seed of order and noise")] = None,
    batch_size: Annotated[int | None, option("images per step")] = None,
    learning_rate: Annotated[float | None, option("learning rate")] = None,
    condition_dropout: Annotated[float | None, option("share trained without class or caption", default="0.1")] = None,
    track: Annotated[str | None, option("also log to tensorboard, wandb, trackio, ...")] = None,
    sampling_steps: Annotated[int | None, option("afterwards teach it to sample in so few steps, such as 4")] = None,
    teaching: Annotated[
        str | None, option("how steps are taught: trajectory, progressive", default="trajectory")
    ] = None,
    teaching_steps: Annotated[int | None, option("training steps of the teaching", default="1000")] = None,
    json: Json = False,
) -> None:
    """Train the pruned model on, with the dense one as teacher."""
    changes: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate, "teaching": teaching}
    changes |= {"condition_dropout": condition_dropout, "sampling_steps": sampling_steps, "seed": seed, "track": track}
    _stage(run, "recover", json, steps=steps, teaching_steps=teaching_steps, **changes)


@app.command()
def evaluate(
    run: RunArgument,
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="[OTHER]...", help="compare the evaluations of these runs")
    ] = None,
    images: Annotated[int | None, option("samples per model", default="1000")] = None,
    sampler: Annotated[str | None, option("ddim, ddpm, dpm-solver, unipc", default="ddim")] = None,
    sampling_steps: Annotated[int | None, option("steps of the sampler", default="20")] = None,
    guidance: Annotated[float | None, option("classifier-free guidance; 1 is none", default="1")] = None,
    features: Annotated[str | None, option("feature extractor of the distances", default="efficientnet-lite0")] = None,
    seed: Annotated[int | None, option("seed of the first sample")] = None,
    batch_size: Annotated[int | None, option("images sampled at once; changes no image")] = None,
    artefact: Annotated[
        list[str] | None, option("also judge what was exported, such as openvino:bf16; may be repeated")
    ] = None,
    controls: Annotated[
        bool | None,
        typer.Option("--controls/--no-controls", help="also sample both models in fewer steps, at equal measured time"),
    ] = None,
    json: Json = False,
) -> None:
    """Sample dense and compressed from the same noise; judge both by real images. With OTHER runs: compare them."""
    changes: dict[str, Any] = {"sampler": sampler, "sampling_steps": sampling_steps, "features": features, "seed": seed}
    changes |= {"guidance": guidance, "batch_size": batch_size, "controls": controls, "images": images}
    if others:
        _compare([run, *others], changes | {"artefact": artefact}, json)
    else:
        _stage(run, "evaluate", json, artefact=artefact or (), **changes)


def _compare(folders: list[Path], options: dict[str, Any], json: bool) -> None:
    from toolkit.api import several
    from toolkit.cli.terminal import say, show, terminal
    from toolkit.core.errors import UsageError

    with terminal(quiet=json):
        if any(value is not None for value in options.values()):
            raise UsageError("Runs that are compared are not sampled.", expected="only run folders")
        comparison = several.compare_evaluations(folders)
    show(comparison, json)
    if not json:
        say("Pages: report.html of each run. Next: dtk profile RUN OTHER")


@app.command()
def export(
    run: RunArgument,
    dtype: Annotated[str | None, option("fp32, fp16 or bf16", default="fp32")] = None,
    batch: Annotated[str | None, option("batch sizes min:opt:max, such as 1:8:64", default="1:8:64")] = None,
    keep_fp32: Annotated[str | None, option("layers that stay in float32, by comma: mid_block.*")] = None,
    opset: Annotated[str | None, option("ONNX opset: auto (measured), or 18 to 23", default="auto")] = None,
    sampler: Annotated[str | None, option("whose update the step graph contains: ddim or ddpm", default="ddim")] = None,
    dynamic_size: Annotated[
        bool | None, typer.Option("--dynamic-size/--fixed-size", help="also make height and width dynamic")
    ] = None,
    also: Annotated[list[str] | None, option("another exporter of `dtk list exporters`; may be repeated")] = None,
    layout: Annotated[str | None, option("optimum: also write the folder that its pipelines open")] = None,
    trt: Annotated[bool | None, typer.Option("--trt/--no-trt", help="build TensorRT engines as well")] = None,
    compute_capability: Annotated[str | None, option("GPUs to build for, by comma: sm89,sm120")] = None,
    level: Annotated[int | None, option("how hard TensorRT optimises, 0 to 5", default="3")] = None,
    workspace_mib: Annotated[int | None, option("largest workspace of an engine")] = None,
    build_budget_s: Annotated[
        float | None, option("seconds to build each engine in; a longer build begins again at a lower level")
    ] = None,
    tf32: Annotated[
        bool | None, option("engines may round float32 products to 10 bits", "--tf32/--no-tf32", default="no")
    ] = None,
    one_per_shape: Annotated[
        bool | None, typer.Option("--one-per-shape/--one-for-all", help="with --trt, one engine per batch size")
    ] = None,
    hardware_compatible: Annotated[
        str | None, option("engines also for other GPUs: capability (the same one), ampere (all from there on)")
    ] = None,
    version_compatible: Annotated[
        bool | None, typer.Option("--version-compatible/--this-version", help="engines also for later TensorRTs")
    ] = None,
    weights: Annotated[
        str | None,
        option("engines' weights: fixed, refit (exchangeable), stripped (left in the ONNX)", default="fixed"),
    ] = None,
    json: Json = False,
) -> None:
    """Write ONNX files and prove them equal to torch; with --trt build engines of them."""
    engine: dict[str, Any] = {"level": level, "workspace_mib": workspace_mib, "one_per_shape": one_per_shape}
    engine |= {"tf32": tf32, "compute_capability": compute_capability and compute_capability.split(",")}
    engine |= {"build_budget_s": build_budget_s}
    engine |= {"hardware_compatible": hardware_compatible, "version_compatible": version_compatible, "weights": weights}
    changes: dict[str, Any] = {"dtype": dtype, "batch": batch, "opset": opset, "sampler": sampler, "trt": trt}
    changes |= {"dynamic_size": dynamic_size, "layout": layout, "also": also}
    kept = None if keep_fp32 is None else [pattern for pattern in keep_fp32.split(",") if pattern]
    _stage(run, "export", json, engine=engine, keep_fp32=kept, **changes)


@app.command()
def verify(
    run: RunArgument,
    margin: Annotated[
        str | None, option("by how much it may be farther from real images: 5% or 0.05", default="0.05")
    ] = None,
    artefact: Annotated[
        str | None, option("what is tested, such as openvino:bf16 or torch", default="what the handoff holds")
    ] = None,
    images: Annotated[int | None, option("pairs of images", default="the evaluation's")] = None,
    power: Annotated[float | None, option("at which to say how many images would decide", default="0.8")] = None,
    json: Json = False,
) -> None:
    """Test whether what is deployed is as good as the dense model; exit code 0 pass, 1 fail, 3 inconclusive."""
    result = _stage(run, "verify", json, margin=margin, artefact=artefact, images=images, power=power)
    raise typer.Exit(result.exit_code)


@app.command()
def handoff(
    run: RunArgument,
    to: Annotated[str | None, option("what serves", default="triton")] = None,
    device: Annotated[str | None, option("where the server computes: cpu or gpu", default="cpu")] = None,
    runtime: Annotated[
        str | None,
        option("onnxruntime, openvino[:bf16], or tensorrt: the engines of `dtk export --trt`", default="onnxruntime"),
    ] = None,
    engine: Annotated[
        list[Path] | None, option("an engine built on another machine, .json next to it; repeatable")
    ] = None,
    fallback: Annotated[
        str | None, option("if the runtime cannot load it: refuse, or onnxruntime", default="refuse")
    ] = None,
    instances: Annotated[int | None, option("copies of the model that work in parallel", default="1")] = None,
    threads: Annotated[int | None, option("processor threads of one copy", default="1")] = None,
    max_batch: Annotated[int | None, option("images of one batch", default="8")] = None,
    max_pixels: Annotated[
        int | None, option("pixels of one batch; lowers max-batch for large images", default="67108864")
    ] = None,
    max_queue_size: Annotated[int | None, option("requests that may wait; one more is refused", default="128")] = None,
    queue_timeout_ms: Annotated[int | None, option("a request that waits longer is refused", default="60000")] = None,
    max_steps: Annotated[int | None, option("most sampling steps of a request", default="100")] = None,
    default_steps: Annotated[
        int | None, option("steps if a request names none", default="those it was taught, else 20")
    ] = None,
    any_steps: Annotated[
        bool | None, typer.Option("--any-steps/--taught-steps", help="also serve steps that the model was not taught")
    ] = None,
    max_guidance: Annotated[float | None, option("largest guidance of a request", default="20")] = None,
    default_guidance: Annotated[
        float | None, option("guidance if a request names none; 1 is none", default="1")
    ] = None,
    json: Json = False,
) -> None:
    """Write a model repository that a server takes as it is."""
    limits: dict[str, Any] = {"max_batch": max_batch, "max_pixels": max_pixels, "threads": threads}
    limits |= {"max_queue_size": max_queue_size, "queue_timeout_ms": queue_timeout_ms}
    limits |= {"max_steps": max_steps, "default_steps": default_steps, "any_steps": any_steps}
    limits |= {"max_guidance": max_guidance, "default_guidance": default_guidance}
    limits |= {"engines": [str(path.resolve()) for path in engine or ()] or None, "fallback": fallback}
    _stage(run, "handoff", json, to=to, device=device, runtime=runtime, instances=instances, **limits)
