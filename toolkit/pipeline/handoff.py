"""The handoff stage: a model repository that a server takes as it is, with the manifest it checks itself against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toolkit.handoff as server
from toolkit.core import noise
from toolkit.core.errors import UsageError
from toolkit.core.files import file_sha256, folder_sha256, read_json, value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.handoff.engines import find_engines
from toolkit.handoff.manifest import write_manifest
from toolkit.handoff.repository import write_repository
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph

STAGE = "handoff"
DEFAULT_STEPS = 20


def handoff(run: RunFolder, settings: HandoffSettings, *, progress: Progress = silent) -> dict[str, Any]:
    """Write RUN/handoff from RUN/export and return its manifest (handoff.json).

    The manifest holds the hashes of every file, the server's inputs and outputs, its limits, the versions it needs and
    a known image. Raises DtkError if the run has no exported step graph or an engine does not fit it, UsageError if
    the settings contradict each other or the graph.
    """
    exported = run.require("export", f"dtk export {run.path}")
    graph = StepGraph.read(run.path / "export" / "onnx" / "compressed_step.onnx")
    engines = find_engines(run.path, settings, graph)
    request = Request(
        stage=STAGE,
        settings=settings.model_dump(mode="json"),
        inputs={
            "graph": graph.sha256,
            "compressed": exported["inputs"]["compressed"],
            "server": value_sha256([folder_sha256(Path(server.__file__).parent), file_sha256(Path(noise.__file__))]),
            "engines": value_sha256([engine.description["sha256"] for engine in engines]),
        },
    )
    if not run.is_current(request):
        with run.writing(request) as folder:
            _write(folder, graph, engines, settings, progress)
    manifest: dict[str, Any] = read_json(run.path / STAGE / "handoff.json")
    return manifest


def _write(folder: Path, graph: Any, engines: Sequence[Any], settings: HandoffSettings, progress: Progress) -> None:

    exported = [size for size in (graph.max_batch, *(engine.largest for engine in engines)) if size]
    max_batch = batch_limit(settings, graph.image, min(exported, default=None))
    settings = resolve_steps(settings, graph)
    check_steps(settings, graph.longest)
    check_guidance(settings)
    progress(STAGE, 0, 2)
    version = write_repository(folder, graph, settings, max_batch, engines)
    progress(STAGE, 1, 2)
    write_manifest(folder, version, graph, settings, max_batch, engines)
    progress(STAGE, 2, 2)


def batch_limit(settings: HandoffSettings, image: Sequence[int], exported: int | None) -> int:
    """The most images of one batch that the settings, the pixels and the exported graph allow."""
    by_pixels = settings.max_pixels // (image[-1] * image[-2])
    if by_pixels < 1:
        raise UsageError(
            f"An image of {image[-1]}x{image[-2]} has more pixels than a batch may have.",
            found=f"max_pixels {settings.max_pixels}",
            expected=f"at least {image[-1] * image[-2]}",
        )
    return min(settings.max_batch, by_pixels, exported or settings.max_batch)


def resolve_steps(settings: HandoffSettings, graph: StepGraph) -> HandoffSettings:
    """The settings with the model's own steps in the place of none; UsageError for steps that it was not taught."""
    default = settings.default_steps or max(graph.taught, default=DEFAULT_STEPS)
    served = graph.served(settings)
    if graph.taught and default not in served:
        raise UsageError(
            f"This model was not taught to sample in {default} steps.",
            found=f"taught: {', '.join(map(str, graph.taught))}",
            do="leave out --default-steps" if settings.any_steps else "leave out --default-steps, or add --any-steps",
        )
    most = max(served) if graph.taught else settings.max_steps
    return settings.model_copy(update={"default_steps": default, "max_steps": most})


def check_steps(settings: HandoffSettings, longest: int) -> None:
    """Refuse limits of steps that contradict each other or the tables that were exported."""
    if not (settings.default_steps or 1) <= settings.max_steps <= longest:
        raise UsageError(
            "The limits of steps contradict each other.",
            found=f"default_steps {settings.default_steps}, max_steps {settings.max_steps}",
            expected=f"default_steps <= max_steps <= {longest}, the longest loop that was exported",
        )


def check_guidance(settings: HandoffSettings) -> None:
    """Refuse a default guidance beyond the limit."""
    if settings.default_guidance > settings.max_guidance:
        raise UsageError(
            "The limits of guidance contradict each other.",
            found=f"default_guidance {settings.default_guidance:g}, max_guidance {settings.max_guidance:g}",
            expected="default_guidance <= max_guidance",
        )
