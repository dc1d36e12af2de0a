"""The export stage: dense and compressed as ONNX files, each proven equal to torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporters.base import NAMES, Exported, Exporter, exporter_called
from exporters.component_parity import write_components
from exporters.ladder import Ladder, rungs
from exporters.settings import ExportSettings, requested_exporters
from toolkit.core.environment import versions
from toolkit.core.errors import UsageError
from toolkit.core.files import value_sha256, write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.diffusion.few_steps import taught_steps
from toolkit.diffusion.step_loop import STEP
from toolkit.models.build import build_model
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import matching
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.opset import choose_opset
from toolkit.report.results import export_result


def export(
    run: RunFolder,
    settings: ExportSettings,
    dense: ModelFolder,
    compressed: ModelFolder,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write RUN/export/onnx/{dense,compressed,compressed_step}.onnx, a .json next to each, and RUN/export/parity.json.

    Of a latent or conditioned model also what stands around its denoiser (exporters.components). Returns ``onnx``
    (file, shapes, dtypes, opset, hashes by file), ``parity`` (by model and precision), ``step_parity`` (of the
    compressed model's step graph), ``runners`` (its loop in other runners of ONNX), ``opset`` (how it was chosen, if it
    was measured) and ``component_parity``, and under a key of its own what each further exporter wrote
    (exporters.base). A finished stage on the same models and settings is read, not repeated; of an unfinished one
    the files and the long calls of its comparisons are taken from RUN/cache. Torch computes on ``device``. Raises
    DtkError if an export is out of tolerance, MissingToolError, with the ONNX files in place, if no TensorRT can work.
    """
    models = dict(zip(NAMES, (dense, compressed), strict=True))
    further = [exporter_called(name) for name in requested_exporters(settings)]
    for exporter in further:
        exporter.check(models, settings)
    request = Request(
        stage="export",
        settings=settings.model_dump(mode="json", exclude={"trt", "engine", "layout", "also"}),
        inputs={name: model.sha256 for name, model in models.items()},
    )
    if not run.is_current(request):
        work = run.path / "cache" / "export"
        chosen = choose_opset(compressed, settings, device, progress) if settings.opset == "auto" else {}
        settings = settings.model_copy(update={"opset": chosen.get("opset", settings.opset)})
        unfinished = work / value_sha256([request.key, versions(), settings.opset])[:16]
        with run.writing(request, device=device) as folder:
            _write(unfinished, settings, models, device, progress, chosen)
            unfinished.rename(folder)
        shutil.rmtree(work)
    result = export_result(run.path / "export")
    of_files = settings.model_copy(update={"opset": result["onnx"]["compressed"]["opset"]})
    exported = Exported(run.path, result["onnx"], models, of_files)
    return result | {exporter.key: _further(run, exporter, exported, progress) for exporter in further}


def _further(run: RunFolder, exporter: Exporter, exported: Exported, progress: Progress) -> dict[str, Any]:
    """What an exporter wrote to its folder of the run, a stage of its own."""
    settings, inputs = exporter.inputs(exported)
    request = Request(exporter.folder, settings, inputs)
    if not run.is_current(request):
        facts: dict[str, Any] = {}
        with run.writing(request, facts=facts) as folder:
            facts |= exporter.write(folder, exported, progress)
    return exporter.result(exported, run.require(exporter.folder, f"dtk export {run.path}"))


def _write(
    folder: Path,
    settings: ExportSettings,
    models: dict[str, ModelFolder],
    device: str,
    progress: Progress,
    chosen: dict[str, Any],
) -> None:
    """Fill ``folder``, where an interrupted export may have left files and, in ``calls``, what it compared.

    ``chosen``: how the opset was, empty if it was named.
    """
    total, count = len(rungs(settings.dtype)) * len(models) + 1 + settings.components, 0

    def done() -> None:
        nonlocal count
        count += 1
        progress("export", count, total)

    _check_patterns(settings.keep_fp32, models)
    if settings.sampler != "ddim" and taught_steps(load_scheduler(models["compressed"])):
        raise UsageError("A model that was taught few steps takes them by ddim.", found=f"sampler {settings.sampler}")
    progress("export", 0, total)
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    calls = folder / "calls"
    ladders = {name: Ladder(model, settings, name, device=device, work=calls) for name, model in models.items()}
    parity = {name: ladder.climb(folder / "onnx" / f"{name}.onnx", done) for name, ladder in ladders.items()}
    step_parity = ladders["compressed"].step(folder / "onnx" / f"{STEP}.onnx")
    done()
    result: dict[str, Any] = {"parity": parity, "step_parity": step_parity}
    result["runners"] = ladders["compressed"].in_other_runners(folder / "onnx" / "compressed.onnx")
    if settings.components:
        around = write_components(models["compressed"], settings, folder / "onnx", calls)
        result |= {"component_parity": around} if around else {}
        done()
    write_json(folder / "parity.json", result | ({"opset": chosen} if chosen else {}))
    shutil.rmtree(calls, ignore_errors=True)


def _check_patterns(patterns: Sequence[str], models: dict[str, ModelFolder]) -> None:
    """Refuse a pattern that names no layer of any model: a misspelt one would keep nothing."""
    if not patterns:
        return
    names = [name for m in models.values() for name, _ in build_model(m.class_name, m.config).named_modules() if name]
    for pattern in patterns:
        if not matching(names, pattern):
            raise UsageError(
                f"--keep-fp32 {pattern} names no layer.",
                expected=f"a name or a shell pattern of one, such as {names[-1]} or {names[0].partition('.')[0]}.*",
            )
