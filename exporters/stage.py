"""The export stage: dense and compressed as ONNX files, each proven equal to torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.config import ExportSettings
from toolkit.files import read_json, write_json
from toolkit.models import ModelFolder
from toolkit.progress import Progress, silent
from toolkit.run_folder import Request, Run

NAMES = ("dense", "compressed")


def export(
    run: Run, settings: ExportSettings, dense: ModelFolder, compressed: ModelFolder, *, progress: Progress = silent
) -> dict[str, Any]:
    """Write RUN/export/onnx/{dense,compressed}.onnx, a .json beside each, and RUN/export/parity.json.

    Returns ``onnx`` (file, shapes, dtypes, opset, hashes by model) and ``parity`` (by model and precision). A finished
    stage on the same models and settings is read, not repeated. Raises DtkError where an export is out of tolerance.
    """
    models = dict(zip(NAMES, (dense, compressed), strict=True))
    request = Request(
        stage="export",
        settings=settings.model_dump(mode="json"),
        inputs={name: model.sha256 for name, model in models.items()},
    )
    if not run.is_current(request):
        with run.writing(request) as folder:
            _write(folder, settings, models, progress)
    return result(run.path / "export")


def result(folder: Path) -> dict[str, Any]:
    """What a finished export stage left in ``folder``."""
    files = {name: folder / "onnx" / f"{name}.onnx" for name in NAMES}
    return {
        "onnx": {
            name: {"file": str(path.relative_to(folder.parent))} | read_json(path.with_suffix(".json"))
            for name, path in files.items()
        },
        "parity": read_json(folder / "parity.json"),
    }


def _write(folder: Path, settings: ExportSettings, models: dict[str, ModelFolder], progress: Progress) -> None:
    from exporters.ladder import Ladder, rungs

    total, count = len(rungs(settings.dtype)) * len(models), 0

    def done() -> None:
        nonlocal count
        count += 1
        progress("export", count, total)

    progress("export", 0, total)
    (folder / "onnx").mkdir()
    parity = {
        name: Ladder(model, settings, name).climb(folder / "onnx" / f"{name}.onnx", done)
        for name, model in models.items()
    }
    write_json(folder / "parity.json", parity)
