"""The prune stage of a run that resumes from another one: its plan and its weights, instead of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256
from toolkit.core.run_folder import MODEL, Request, RunFolder
from toolkit.models.build import build_model, built_config, full_config, load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.save import save_model
from toolkit.pruning.plan import read_plan
from toolkit.report.card import PLAN


def resume(run: RunFolder, dense: ModelFolder, source: str) -> dict[str, Any]:
    """Write RUN/prune with the plan and the weights of ``source``, a run, or the folder or hub id of a published one.

    Returns the plan's facts. Raises DtkError if there is no plan, or if it is of another dense model or of other
    weights.
    """
    compressed, place = _found(source)
    plan = read_plan(place)
    request = Request("prune", {}, {"model": dense.sha256, "weights": compressed.sha256, "plan": file_sha256(place)})
    if run.is_current(request):
        return dict(plan.facts)
    params = build_model(dense.class_name, full_config(dense)).num_parameters()
    if (plan.class_name, plan.facts["dense"]["params"]) != (dense.class_name, params):
        raise DtkError(
            f"{source} was not made of {dense.root}.",
            found=f"a plan for a {plan.class_name} of {plan.facts['dense']['params']:,} parameters",
            expected=f"one for a {dense.class_name} of {params:,}",
        )
    if full_config(compressed) != built_config(plan.class_name, plan.config):
        raise DtkError(f"The plan of {source} does not lead to its model.", found=place)
    with run.writing(request) as folder:
        plan.write(folder / "plan.json")
        save_model(compressed, load_denoiser(compressed), folder / "model")
    return dict(plan.facts)


def _found(source: str) -> tuple[ModelFolder, Path]:
    """The compressed model of ``source``, and its plan."""
    a_run = (Path(source) / "run.json").is_file()
    compressed = find_model(Path(source) / MODEL if a_run else source)
    place = Path(source) / "prune" / "plan.json" if a_run else compressed.root / PLAN
    if not place.is_file():
        raise DtkError(f"{source} does not say how it was pruned.", found=f"no {place}", do="dtk publish writes it")
    return compressed, place
