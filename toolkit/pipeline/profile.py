"""The profile stage: what compression gained in size, MACs, latency and memory, dense and compressed side by side."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from profiles.cells import Cells
from profiles.comparison import compare_exported_parts, compare_models, compare_network_parts, compare_runners
from profiles.decoder import compare_decoders, with_shares
from profiles.loop import Taken
from profiles.opened import OpenRunners, Sources
from profiles.settings import ProfileSettings
from profiles.table import Table
from toolkit.core.environment import machine, resolve_device, versions
from toolkit.core.files import read_json, value_sha256, write_json
from toolkit.core.numerics import TF32
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.diffusion.few_steps import own_guidance, own_steps
from toolkit.diffusion.step_loop import STEP
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.artefacts import engines_of, export_of
from toolkit.runners.base import RunnerSpec, parse_runner, runner_reads


def profile(
    run: RunFolder,
    settings: ProfileSettings,
    dense: ModelFolder,
    compressed: ModelFolder,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write RUN/profile/profile.json and return it: the figures of profiles.comparison.

    A finished stage is read, not repeated, on the same models, settings, machine and versions. Raises DtkError if a
    runner reads an export that has not been made, or that is of other models.
    """
    models = {"dense": dense, "compressed": compressed}
    device = resolve_device(settings.device)
    inputs = {name: model.sha256 for name, model in models.items()}
    inputs["machine"] = value_sha256([machine(device), versions(), torch.get_num_threads()])
    named = (*settings.runners, *([] if settings.baseline == "auto" else [settings.baseline]))
    reads = {runner_reads(parse_runner(text).name) for text in named}
    if reads & {"onnx", "engine"}:
        inputs["export"] = value_sha256(export_of(run, models)["outputs"])
    if "engine" in reads:
        inputs["tensorrt"] = value_sha256(engines_of(run)["outputs"])
    request = Request(stage="profile", settings=settings.model_dump(mode="json"), inputs=inputs)
    if not run.is_current(request):
        with run.writing(request, device=device) as folder:
            write_json(folder / "profile.json", _measure(run.path, settings, models, inputs, device, progress))
    result: dict[str, Any] = read_json(run.path / "profile" / "profile.json")
    return result


def _measure(
    run: Path,
    settings: ProfileSettings,
    models: dict[str, ModelFolder],
    inputs: dict[str, str],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """All figures; every cell is kept in RUN/cache/profile as it comes."""
    specs = [parse_runner(text) for text in dict.fromkeys(settings.runners)]
    sources = _sources(run, models)
    exports = any(runner_reads(spec.name) != "model" for spec in specs)
    exported = [spec for spec in specs if settings.parts and runner_reads(spec.name) != "model"]
    timed_parts = settings.parts and any(runner_reads(spec.name) == "model" for spec in specs)
    shapes = denoiser_inputs(models["dense"], settings.tokens)
    runners = OpenRunners(sources, shapes, device, settings.dtype)
    baselines = len({runners.precision(spec) for spec in specs}) * len(settings.batches)
    cells_of_each = len(settings.batches) + 1 + bool(settings.loop_steps)
    count, total = 0, baselines + len(specs) * cells_of_each + 2 + timed_parts + len(exported)

    def done() -> None:
        nonlocal count
        count += 1
        progress("profile", count, total)

    progress("profile", 0, total)
    measured_by = settings.model_dump(mode="json", exclude={"runners", "batches", "baseline", "parts"})
    table = Table(run / "cache" / "profile", {"settings": measured_by, "inputs": inputs})
    figures = compare_models(models["dense"], models["compressed"], settings.tokens)
    with closing(runners):
        looped = models if settings.loop_steps else {}
        taken = {name: _taken(model, settings) for name, model in looped.items()}
        described = run / "export" / "onnx" / f"{STEP}.json"
        step_graph = read_json(described) if exports and described.is_file() else None
        cells = Cells(runners, models["dense"], settings, taken, table, done, step_graph)
        figures |= compare_runners(cells, specs, figures["ratios"]["macs"], settings.batches)
    if decoders := table.get({"decoder": "torch"}, partial(compare_decoders, models, settings, device)):
        figures["decoder"] = with_shares(decoders, figures["runners"])
    done()
    onnx = {which: run / "export" / "onnx" / f"{which}.onnx" for which in models}
    for spec in exported:
        own = {which: sources(spec, which, max(settings.batches)) for which in models}
        options = runners.options(spec)
        measure = partial(compare_exported_parts, spec.name, options, own, onnx, models["dense"], settings, device)
        if parts := table.get({"parts": str(spec)}, measure):
            figures["runners"][str(spec)]["parts"] = parts
        done()
    if timed_parts:
        measure = partial(compare_network_parts, models["dense"], models["compressed"], settings, device)
        figures["parts"] = table.get({"parts": "torch"}, measure)
        done()
    return figures | {"device": device, "machine": machine(device), "tf32": TF32}


def _taken(model: ModelFolder, settings: ProfileSettings) -> Taken:
    """How a model is sampled: as the settings say, or as it was taught."""
    scheduler = load_scheduler(model)
    return Taken(own_steps(scheduler, settings.loop_steps), own_guidance(scheduler, settings.guidance))


def _sources(run: Path, models: dict[str, ModelFolder]) -> Sources:
    """What a runner reads: the model, its ONNX file, or its engine, that of the one batch size if there is one."""

    def source(spec: RunnerSpec, which: str, batch: int) -> ModelFolder | Path:
        reads = runner_reads(spec.name)
        if reads == "model":
            return models[which]
        if reads == "onnx":
            return run / "export" / "onnx" / f"{which}.onnx"
        single = run / "tensorrt" / f"{which}-b{batch}.plan"
        return single if single.is_file() else run / "tensorrt" / f"{which}.plan"

    return source
