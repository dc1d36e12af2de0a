"""The export stage: dense and compressed as ONNX files, each proven equal to torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from exporters.config import ExportSettings
from toolkit.errors import UsageError
from toolkit.files import read_json, value_sha256, write_json
from toolkit.mixed_precision import matching
from toolkit.models import ModelFolder, build
from toolkit.progress import Progress, silent
from toolkit.run_folder import Request, Run

NAMES = ("dense", "compressed")
STEP = "compressed_step"
AROUND = ("decoder", "encoder", "conditioner")


def export(
    run: Run, settings: ExportSettings, dense: ModelFolder, compressed: ModelFolder, *, progress: Progress = silent
) -> dict[str, Any]:
    """Write RUN/export/onnx/{dense,compressed,compressed_step}.onnx, a .json beside each, and RUN/export/parity.json.

    Of a latent or conditioned model also what stands around its denoiser (exporters.components). Returns ``onnx``
    (file, shapes, dtypes, opset, hashes by file), ``parity`` (by model and precision), ``step_parity`` (of the
    compressed model's step graph) and ``surroundings_parity``. A finished stage on the same models and settings is
    read, not repeated. With ``settings.trt`` there are also ``engines``. Raises DtkError where an export is out of
    tolerance, MissingToolError, with the ONNX files in place, where no TensorRT can work.
    """
    models = dict(zip(NAMES, (dense, compressed), strict=True))
    if settings.layout == "optimum":
        from exporters.optimum import check_layout

        check_layout(compressed)
    request = Request(
        stage="export",
        settings=settings.model_dump(mode="json", exclude={"trt", "engine", "layout"}),
        inputs={name: model.sha256 for name, model in models.items()},
    )
    if not run.is_current(request):
        with run.writing(request) as folder:
            _write(folder, settings, models, progress)
    found = result(run.path / "export")
    if settings.layout == "optimum":
        found["optimum"] = _optimum(run, settings, compressed, progress)
    return found | ({"engines": _engines(run, settings, found, models, progress)} if settings.trt else {})


def _optimum(run: Run, settings: ExportSettings, model: ModelFolder, progress: Progress) -> dict[str, Any]:
    """Write RUN/optimum, a stage of its own; its folder and each graph's deviation from torch are returned."""
    from exporters.optimum import write_layout

    asked = settings.model_dump(mode="json", include={"dtype", "keep_fp32", "opset", "tokens", "seed"})
    request = Request(stage="optimum", settings=asked, inputs={"model": model.sha256})
    if not run.is_current(request):
        facts: dict[str, Any] = {}
        with run.writing(request, facts=facts) as folder:
            facts["deviations"] = write_layout(model, settings, folder, progress)
    return {"folder": "optimum", "deviations": run.require("optimum", "dtk export --layout optimum")["deviations"]}


def _engines(
    run: Run, settings: ExportSettings, exported: dict[str, Any], models: dict[str, ModelFolder], progress: Progress
) -> dict[str, Any]:
    """Write RUN/tensorrt/{dense,compressed,compressed_step}.plan, a .json beside each: a stage behind the ONNX files.

    The step graph's engine is a server's, which serves any batch of the range and compares its known image. With a GPU
    the other engines are held against torch: ``parity`` in the .json.
    """
    from exporters.engines import batch_ranges, engine_facts, write_engine
    from exporters.ladder import Ladder
    from toolkit.runners.tensorrt_api import has_gpu, load_tensorrt

    api = load_tensorrt()
    ranges = batch_ranges(settings)
    wanted = [*product(NAMES, ranges.items()), (STEP, ("", settings.batch))]
    facts = {name: engine_facts(api, exported["onnx"][name], settings) for name in (*NAMES, STEP)}
    inputs = {name: value_sha256(fact) for name, fact in facts.items()}
    request = Request(stage="tensorrt", settings=settings.engine.model_dump(mode="json"), inputs=inputs)
    if not run.is_current(request):
        with run.writing(request) as folder:
            for name, (ending, batch) in wanted:
                description = exported["onnx"][name]
                onnx, target = run.path / description["file"], folder / f"{name}{ending}.plan"
                asked = settings.model_copy(update={"batch": batch})
                built = write_engine(api, onnx, description, target, asked, progress)
                if name in models and has_gpu():
                    write_json(
                        target.with_suffix(".json"),
                        built | {"parity": Ladder(models[name], asked, name).engine(target)},
                    )
    files = [f"{name}{ending}" for name, (ending, _) in wanted]
    return {
        name: {"file": f"tensorrt/{name}.plan"} | read_json(run.path / "tensorrt" / f"{name}.json") for name in files
    }


def result(folder: Path) -> dict[str, Any]:
    """What a finished export stage left in ``folder``."""
    found: dict[str, Any] = {"onnx": {}, **read_json(folder / "parity.json")}
    around = [name for name in AROUND if (folder / "onnx" / f"{name}.onnx").is_file()]
    for name in (*NAMES, STEP, *around):
        path = folder / "onnx" / f"{name}.onnx"
        description = read_json(path.with_suffix(".json"))
        description.pop("schedules", None)  # thousands of numbers for a server's loop
        found["onnx"][name] = {"file": str(path.relative_to(folder.parent))} | description
    return found


def _write(folder: Path, settings: ExportSettings, models: dict[str, ModelFolder], progress: Progress) -> None:
    from exporters.ladder import Ladder, rungs
    from exporters.surroundings import write_surroundings

    total, count = len(rungs(settings.dtype)) * len(models) + 1 + settings.surroundings, 0

    def done() -> None:
        nonlocal count
        count += 1
        progress("export", count, total)

    _check_patterns(settings.keep_fp32, models)
    progress("export", 0, total)
    (folder / "onnx").mkdir()
    ladders = {name: Ladder(model, settings, name) for name, model in models.items()}
    parity = {name: ladder.climb(folder / "onnx" / f"{name}.onnx", done) for name, ladder in ladders.items()}
    step_parity = ladders["compressed"].step(folder / "onnx" / f"{STEP}.onnx")
    done()
    found: dict[str, Any] = {"parity": parity, "step_parity": step_parity}
    if settings.surroundings:
        around = write_surroundings(models["compressed"], settings, folder / "onnx")
        found |= {"surroundings_parity": around} if around else {}
        done()
    write_json(folder / "parity.json", found)


def _check_patterns(patterns: Sequence[str], models: dict[str, ModelFolder]) -> None:
    """Refuse a pattern that names no layer of any model: a misspelt one would keep nothing."""
    if not patterns:
        return
    names = [name for m in models.values() for name, _ in build(m.class_name, m.config).named_modules() if name]
    for pattern in patterns:
        if not matching(names, pattern):
            raise UsageError(
                f"--keep-fp32 {pattern} names no layer.",
                expected=f"a name or a shell pattern of one, such as {names[-1]} or {names[0].partition('.')[0]}.*",
            )
