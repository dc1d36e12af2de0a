"""The profile stage: what compression gained in size, MACs, latency and memory, dense and compressed side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.comparison import compare_exported_parts, compare_models, compare_network_parts, compare_runner
from profiles.settings import ProfileSettings
from toolkit.core.environment import machine, resolve_device, versions
from toolkit.core.errors import DtkError
from toolkit.core.files import files_sha256, read_json, value_sha256, write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import runner_reads


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
    inputs["machine"] = value_sha256([machine(device), versions()])
    reads = {runner_reads(name) for name in settings.runners}
    if reads & {"onnx", "engine"}:
        inputs["export"] = value_sha256(_export_of(run, models)["outputs"])
    if "engine" in reads:
        inputs["tensorrt"] = value_sha256(_engines_of(run)["outputs"])
    request = Request(stage="profile", settings=settings.model_dump(mode="json"), inputs=inputs)
    if not run.is_current(request):
        with run.writing(request, device=device) as folder:
            write_json(folder / "profile.json", _measure(run.path, settings, models, device, progress))
    result: dict[str, Any] = read_json(run.path / "profile" / "profile.json")
    return result


def _export_of(run: RunFolder, models: dict[str, ModelFolder]) -> dict[str, Any]:
    command = f"dtk export {run.path}"
    record = run.require("export", command)
    stale = [name for name, model in models.items() if record["inputs"][name] != model.sha256]
    if stale:
        raise DtkError(f"The export in {run.path} is of another {' and another '.join(stale)} model.", do=command)
    return record


def _engines_of(run: RunFolder) -> dict[str, Any]:
    command = f"dtk export {run.path} --trt"
    record = run.require("tensorrt", command)
    for name in ("dense", "compressed"):
        exported = read_json(run.path / "export" / "onnx" / f"{name}.json")["sha256"]
        built_from = read_json(run.path / "tensorrt" / f"{name}.json")["facts"]["onnx"]
        if built_from != files_sha256(exported):
            raise DtkError(f"The {name} engine in {run.path} is of another export.", do=command)
    return record


def _measure(
    run: Path, settings: ProfileSettings, models: dict[str, ModelFolder], device: str, progress: Progress
) -> dict[str, Any]:

    sources: dict[str, Mapping[str, ModelFolder | Path]] = {
        "model": models,
        "onnx": {name: run / "export" / "onnx" / f"{name}.onnx" for name in models},
        "engine": {name: run / "tensorrt" / f"{name}.plan" for name in models},
    }
    figures = compare_models(models["dense"], models["compressed"], settings.tokens)
    timed_parts = settings.parts and "torch" in settings.runners
    each = len(settings.batches) + 2 + bool(settings.loop_steps)
    exported = [name for name in settings.runners if settings.parts and runner_reads(name) != "model"]
    count, total = 0, len(settings.runners) * each + timed_parts + len(exported)

    def done() -> None:
        nonlocal count
        count += 1
        progress("profile", count, total)

    progress("profile", 0, total)
    runners = {
        name: compare_runner(
            name, sources[runner_reads(name)], models["dense"], figures["ratios"]["macs"], settings, device, done
        )
        for name in settings.runners
    }
    for name in exported:
        files = {which: Path(path) for which, path in sources["onnx"].items() if isinstance(path, Path)}
        own = sources[runner_reads(name)]
        if parts := compare_exported_parts(name, own, files, models["dense"], settings, device):
            runners[name]["parts"] = parts
        done()
    if timed_parts:
        figures["parts"] = compare_network_parts(models["dense"], models["compressed"], settings, device)
        done()
    return figures | {"device": device, "machine": machine(device), "runners": runners}
