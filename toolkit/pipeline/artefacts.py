"""What was exported of a run, checked against its models, and the artefacts that can be deployed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporters.base import NAMES
from exporters.ladder import OWN_PRECISIONS
from toolkit.core.environment import processor_name, versions
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, files_sha256, read_json, value_sha256
from toolkit.core.run_folder import RunFolder
from toolkit.diffusion.step_loop import STEP
from toolkit.evaluation.artefact import Artefact
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import DTYPES
from toolkit.runners.base import RunnerSpec, known_runners, parse_runner, precision_of, precision_options, runner_reads

PLACES = {"onnx": ("export/onnx", ".onnx"), "engine": ("tensorrt", ".plan")}
"""The folder of a run and the ending of the files that a runner reads."""


def export_of(run: RunFolder, models: Mapping[str, ModelFolder]) -> dict[str, Any]:
    """The record of the export stage; raises DtkError if there is none, or if it is of other models."""
    command = f"dtk export {run.path}"
    record = run.require("export", command)
    stale = [name for name, model in models.items() if record["inputs"][name] != model.sha256]
    if stale:
        raise DtkError(f"The export in {run.path} is of another {' and another '.join(stale)} model.", do=command)
    return record


def engines_of(run: RunFolder) -> dict[str, Any]:
    """The record of the TensorRT engines; raises DtkError if there are none, or if they are of another export."""
    command = f"dtk export {run.path} --trt"
    record = run.require("tensorrt", command)
    for name in NAMES:
        exported = read_json(run.path / "export" / "onnx" / f"{name}.json")["sha256"]
        built_from = read_json(run.path / "tensorrt" / f"{name}.json")["facts"]["onnx"]
        if built_from != files_sha256(exported):
            raise DtkError(f"The {name} engine in {run.path} is of another export.", do=command)
    return record


def deployed(run: RunFolder) -> str:
    """What a server would run: the handoff's runtime, or the one it would take by default.

    Raises DtkError for a handoff that holds another export than the run.
    """
    handed = run.stage("handoff")
    if handed is None:
        return str(HandoffSettings().runtime)
    if handed["inputs"]["graph"] != StepGraph.read(run.path / PLACES["onnx"][0] / f"{STEP}.onnx").sha256:
        raise DtkError(
            f"The handoff in {run.path} holds another export than the run.",
            do=f"dtk handoff {run.path}, or name what is to be tested by --artefact",
        )
    return str(handed["settings"]["runtime"])


def find_artefact(run: RunFolder, compressed: ModelFolder, text: str) -> Artefact:
    """The artefact written NAME or NAME:DTYPE, such as openvino:bf16 or torch.

    Raises UsageError for one that was not exported, with the list of those that were; DtkError if what was exported is
    of another model than the run holds now.
    """
    spec = parse_runner(text)
    reads = runner_reads(spec.name)
    if reads == "model":
        return _of_model(spec, compressed)
    exported = list(_exported(run))
    dtypes = [dtype for name, dtype in exported if name == spec.name]
    if not dtypes or (spec.dtype or dtypes[0]) not in dtypes:
        raise UsageError(
            f"{spec} was not exported in {run.path}.",
            found=f"exported: {', '.join(f'{name}:{dtype}' for name, dtype in exported) or 'nothing'}",
            expected="one of these, or torch[:DTYPE], which needs no export",
            do=_command(run, spec),
        )
    export_of(run, {"compressed": compressed})
    if reads == "engine":
        engines_of(run)
    folder, ending = PLACES[reads]
    denoiser, step = (run.path / folder / f"{name}{ending}" for name in ("compressed", STEP))
    described = run.path / PLACES["onnx"][0] / f"{STEP}.json"
    return _of_files(RunnerSpec(spec.name, spec.dtype or dtypes[0]), denoiser, step, described)


def _exported(run: RunFolder) -> Iterator[tuple[str, Any]]:
    """(runner, precision) of all that can be run of what was exported, a runner's own precision first."""
    for name in known_runners():
        folder, ending = PLACES.get(runner_reads(name), ("", ""))
        path = run.path / folder / f"compressed{ending}"
        if folder and path.is_file():
            yield from ((name, dtype) for dtype in _precisions(name, path))


def _precisions(name: str, path: Path) -> list[str]:
    """What a runner computes a file in: what it was written in, or what the runner takes it for."""
    if not precision_options(name, "fp32"):
        return [precision_of(RunnerSpec(name), path)]
    return list(OWN_PRECISIONS)


def _command(run: RunFolder, spec: RunnerSpec) -> str:
    flags = ["--trt"] * (runner_reads(spec.name) == "engine") + ([f"--dtype {spec.dtype}"] if spec.dtype else [])
    return " ".join(["dtk export", str(run.path), *flags])


def _of_model(spec: RunnerSpec, model: ModelFolder) -> Artefact:
    dtype = spec.dtype or "fp32"
    if dtype not in DTYPES:
        raise UsageError(f"{spec} computes no model in {dtype}.", expected=", ".join(DTYPES))
    options, plain = precision_options(spec.name, dtype), (spec.name, dtype) == ("torch", "fp32")
    return Artefact(f"{spec.name}:{dtype}", spec.name, model, options, sha256=None if plain else _sha256(spec, []))


def _of_files(spec: RunnerSpec, denoiser: Path, step: Path, described: Path) -> Artefact:
    options = precision_options(spec.name, str(spec.dtype))
    files = [file_sha256(file) for path in (denoiser, step) for file in sorted(path.parent.glob(f"{path.name}*"))]
    steps: dict[str, Any] = {"step": step, "described": read_json(described)} if step.is_file() else {}
    return Artefact(str(spec), spec.name, denoiser, options, sha256=_sha256(spec, files), **steps)


def _sha256(spec: RunnerSpec, files: list[str]) -> str:
    """Of the files, and of what runs them: another version of a runner, or another processor, may round otherwise."""
    return value_sha256([str(spec), files, versions(), processor_name()])
