"""A run with the embedded default's step graph, as the export stage leaves it."""

from __future__ import annotations

from pathlib import Path

from exporters.step import export_step
from toolkit.adapters.inputs import input_specs
from toolkit.core.run_folder import Request, RunFolder
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler

MAX_STEPS = 40


def run_with_step_graph(path: Path) -> RunFolder:
    """A run folder whose export stage has finished with a step graph."""
    found = find_model(None)
    run = RunFolder.create(path)
    with run.writing(Request("export", {}, {"compressed": "0" * 64})) as folder:
        (folder / "onnx").mkdir()
        export_step(
            load_denoiser(found),
            load_scheduler(found),
            input_specs(found.class_name, found.config, timesteps=1000, tokens=77),
            folder / "onnx" / "compressed_step.onnx",
            longest=MAX_STEPS,
        )
    return run
