"""Several runs: a sweep of one model over targets, and the figures of runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from toolkit.api import results
from toolkit.api.options import CompressOptions
from toolkit.api.progress import watched
from toolkit.api.runs import StrPath, text_of
from toolkit.core.progress import Progress
from toolkit.core.run_folder import RunFolder
from toolkit.core.run_lock import held
from toolkit.pipeline import sweep as sweeps
from toolkit.pipeline.options import MEASURING, compress_recipe
from toolkit.pipeline.recipe import Recipe
from toolkit.report import comparison


def sweep(
    model: StrPath | None = None,
    *,
    out: StrPath,
    targets: Sequence[str],
    data: str | Path | None = None,
    images: int | None = None,
    evaluation_steps: int | None = None,
    taught_steps: Sequence[int] = (),
    recover: bool = True,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CompressOptions],
) -> results.Sweep:
    """Compress ``model`` to several targets, a run folder each below ``out``, and draw quality against latency.

    ``images`` and ``evaluation_steps``, the dense model's sampling steps, are those of the evaluations.
    ``taught_steps``: each target also with its model taught to sample in so few. Resumes an interrupted sweep.
    """
    flat = dict(options)
    measuring = {name: flat.pop(name, None) for name in MEASURING}
    base: Recipe = compress_recipe(*(text_of(model), text_of(data), flat), recover=recover, device=device)
    judging = {"images": images, "sampling_steps": evaluation_steps}
    requested = sweeps.recipes(base, targets, judging, measuring, taught_steps)
    with watched(progress) as bars, held(Path(out), make=True):
        return results.Sweep(sweeps.sweep(Path(out), requested, overwrite=overwrite, progress=bars), Path(out))


def compare_profiles(runs: Sequence[StrPath], *, across_machines: bool = False) -> results.Comparison:
    """The profiles of several runs side by side. Raises DtkError for runs of different machines, unless allowed."""
    return results.Comparison(comparison.compare_runs(_folders(runs), across_machines=across_machines))


def compare_evaluations(runs: Sequence[StrPath]) -> results.Comparison:
    """The evaluations of several runs side by side. Raises DtkError for those that do not compare."""
    return results.Comparison(comparison.compare_evaluations(_folders(runs)))


def _folders(runs: Sequence[StrPath]) -> list[RunFolder]:
    return [RunFolder.open(Path(run)) for run in runs]
