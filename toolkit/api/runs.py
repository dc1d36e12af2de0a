"""One run: compress a model into a folder, then evaluate, export, profile and hand it off, stage by stage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from diffusers import ModelMixin

from toolkit.api import results
from toolkit.api.models import Model
from toolkit.api.options import (
    CompressOptions,
    EvaluateOptions,
    ExportOptions,
    HandoffOptions,
    ProfileOptions,
    RecoverOptions,
    ServeOptions,
    VerifyOptions,
)
from toolkit.api.progress import watched
from toolkit.api.stored import remove_unused, stored_data, stored_in, stored_model
from toolkit.core import processes
from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress
from toolkit.core.run_folder import RunFolder
from toolkit.core.run_lock import held
from toolkit.data.conditions import Condition
from toolkit.data.memory import Data, ValueRange
from toolkit.handoff.server import Server
from toolkit.handoff.server import serve as serve_run
from toolkit.handoff.settings import ServeSettings
from toolkit.importing.addons import Pruned
from toolkit.importing.carry import carry
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.pipeline import recipe as recipes
from toolkit.pipeline import stages
from toolkit.pipeline.job import Job, open_job, start_job
from toolkit.pipeline.options import compress_recipe, given, with_options
from toolkit.pipeline.publish import publish
from toolkit.pruning.plan import read_plan
from toolkit.report.gates import Gate, GateFailedError, check_decidable, hold, parse

StrPath = str | Path


class Run:
    """A run folder that ``compress`` or ``dtk run`` made. A stage that is already current is read, not run again."""

    def __init__(self, folder: StrPath, progress: Progress | None = None) -> None:
        self.folder, self._progress = Path(folder), progress
        RunFolder.open(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def model(self) -> ModelMixin:
        """The compressed denoiser with its weights, a stock module, float32 in eval mode."""
        return load_denoiser(find_model(self.folder / "model"))

    def plan(self) -> results.PlanSummary:
        """What was pruned."""
        return results.PlanSummary(self._report()["stages"]["prune"], self.folder / "prune")

    def recover(self, **options: Unpack[RecoverOptions]) -> results.Recovery:
        """Train the pruned model up to ``steps`` in all, with the dense one as teacher; resumes where it was."""
        return results.Recovery(self._stage("recover", options), self.folder / "recover")

    def evaluate(self, *, artefact: Sequence[str] = (), **options: Unpack[EvaluateOptions]) -> results.Evaluation:
        """Sample dense and compressed from the same noise and judge both by real images.

        ``artefact``: what was exported and is judged as well, such as "openvino:bf16".
        """
        evaluation = self._stage("evaluate", options, artefacts=artefact)
        return results.Evaluation(evaluation, self.folder / "evaluate")

    def export(self, **options: Unpack[ExportOptions]) -> results.Export:
        """Write ONNX files and prove them equal to torch; with trt=True build TensorRT engines of them."""
        return results.Export(self._stage("export", options), self.folder / "export")

    def profile(
        self,
        *,
        against: StrPath | None = None,
        fail_if: Sequence[str] = (),
        best: Literal["latency", "throughput"] | None = None,
        **options: Unpack[ProfileOptions],
    ) -> results.Profile:
        """Measure dense against compressed: size, MACs, latency, memory; first of all against the best dense baseline.

        ``against``: a diffusers folder that is measured in the dense model's place; nothing of it is kept in the
        report. ``fail_if``: gates such as "onnxruntime@64.speedup<1.2"; raises GateFailedError, which holds the
        profile, after all was measured. ``best``: choose runner, precision, opset and batch for that goal and write
        them into RUN/recipe.yaml, for ``export`` and ``handoff``.
        """
        if best and against:
            raise UsageError("What is measured against another model is not handed off.", expected="best or against")
        gates = [parse(text) for text in fail_if]
        with self._job() as job:
            job = with_options(job, "profile", options)
            _check_decidable(job, gates)
            measured = stages.profile_against(job, str(against)) if against else stages.profile(job)
            if best:
                job, measured = stages.choose_best(job, measured, best)
            if not against:
                job.recipe.write(self.folder / "recipe.yaml")
            results_of_stages = stages.report(job)["stages"] | {"profile": measured}
        profile = results.Profile(measured, Path(measured.get("folder", self.folder)) / "profile")
        try:
            hold(gates, results_of_stages)
        except GateFailedError as error:
            error.profile = profile
            raise
        return profile

    def verify(self, **options: Unpack[VerifyOptions]) -> results.Verification:
        """Test whether what is deployed is as good as the dense model, from the same noise, within ``margin``.

        ``artefact`` holds for this call only: without it, what the handoff holds is tested.
        """
        artefact = options.pop("artefact", None)
        return results.Verification(self._stage("verify", options, artefact=artefact), self.folder / "verify")

    def handoff(self, **options: Unpack[HandoffOptions]) -> results.Handoff:
        """Write RUN/handoff, a model repository that a server takes as it is.

        ``engines`` that were named before do not stand in the way of another runtime.
        """
        if not (options.get("runtime") or "tensorrt").startswith("tensorrt") and not options.get("engines"):
            options["engines"] = ()
        return results.Handoff(self._stage("handoff", options), self.folder / "handoff")

    def carry(self, addon: StrPath, *, out: StrPath) -> results.Carried:
        """Make a LoRA, textual inversion or ControlNet of the dense model fit the compressed one.

        ``addon`` is a safetensors file or a folder; what fits is written into the folder ``out`` under the same name.
        Raises DtkError for what is of another model, or does not follow from slicing (DoRA, LoHa and the like).
        """
        with self._job() as job:
            pruned = Pruned(job.dense, job.compressed, read_plan(self.folder / "prune" / "plan.json"))
            return results.Carried(carry(Path(addon), Path(out), pruned), Path(out))

    def publish(
        self, repository: str | None = None, *, license: str | None = None, private: bool = False
    ) -> results.Published:
        """Write a model card into RUN/model, and upload the folder to the hub if a ``repository`` is named.

        ``license`` is the hub's name of one, such as "apache-2.0"; None is that of the dense model's card.
        ``private`` is for a repository that is made. The plan goes along, so that the model can be trained further.
        """
        with self._job() as job:
            return results.Published(publish(job, repository, license, private=private), self.folder / "model")

    def report(self) -> results.Report:
        """Everything found so far; writes RUN/report.html and report.json."""
        return results.Report(self._report(), self.folder)

    def serve(self, ready: Callable[[Server], None], **settings: Unpack[ServeOptions]) -> int:
        """Serve RUN/handoff with a real tritonserver until the process is told to stop; returns its exit code.

        ``ready`` is called when it answers.
        """
        return serve_run(RunFolder.open(self.folder), ServeSettings(**given(settings)), ready=ready)

    def _report(self) -> dict[str, Any]:
        with self._job() as job:
            return stages.report(job)

    @contextlib.contextmanager
    def _job(self) -> Iterator[Job]:
        with watched(self._progress) as progress, held(self.folder):
            yield open_job(self.folder, progress)

    def _stage(self, stage: str, options: Mapping[str, Any], **further: Any) -> dict[str, Any]:
        """Run one stage with changed settings; under a launcher only the main process writes the recipe and report."""
        with self._job() as job:
            job = with_options(job, stage, options)
            result = stages.STAGES[stage](job, **further)
            if processes.is_main():
                job.recipe.write(self.folder / "recipe.yaml")
                stages.report(job)
        return result


def _check_decidable(job: Job, gates: list[Gate]) -> None:
    """Refuse, before minutes of measuring, a gate on what will not be measured."""
    stale = stages.stale(job)
    for gate in gates:
        check_decidable(gate, job.run, job.recipe.profile, stale)


def compress(
    model: Model = None,
    *,
    out: StrPath,
    data: Data = None,
    value_range: ValueRange | None = None,
    conditions: Sequence[Condition] | None = None,
    scheduler: Any = None,
    recover: bool = True,
    stream: int | None = None,
    device: str = "auto",
    resume_from: StrPath | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CompressOptions],
) -> Run:
    """Prune ``model`` to ``target`` and recover its quality, into the run folder ``out``; a finished part is kept.

    ``model``, ``data``, ``value_range``, ``conditions`` and ``scheduler`` as in ``prune``; what lies in memory is
    stored in ``out``, so that the run can be repeated. ``recover=False`` prunes only. ``stream``: of a data set of the
    hub, read that many of its first rows. ``overwrite``: replace a run of another recipe. ``resume_from``: a run, or
    the folder or hub id of a published one, that was made of ``model``: recovery starts from its plan and its weights.
    """
    folder, resumed = Path(out), text_of(resume_from)
    others: dict[str, Any] = {"recover": recover, "stream": stream, "device": device, "resume_from": resumed}
    compress_recipe(None, None, options, **others)  # what is wrong with the options is said before anything is stored
    with watched(progress) as bars, held(folder, make=True):
        used = stored_in(folder)
        try:
            source = stored_model(model, scheduler, folder)
            images = stored_data(data, find_model(source), value_range, conditions, folder, bars)
            requested = compress_recipe(source, images, options, **others)
            job = start_job(folder, requested, overwrite=overwrite, progress=bars)
            used = [folder / Path(place).name for place in (source, images) if place]
        finally:
            remove_unused(folder, used)
        stages.run_all(job)
    return Run(folder, progress)


def open_run(folder: StrPath, *, progress: Progress | None = None) -> Run:
    """The run in ``folder``. Raises DtkError if there is none, or if another version of dtk wrote it."""
    return Run(folder, progress)


def run_recipe(
    recipe: StrPath,
    *,
    out: StrPath | None = None,
    changes: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Do all that a recipe (YAML) says; ``changes`` such as "recover.steps=2000". Resumes an interrupted run.

    ``out`` None is the run folder that the recipe lies in.
    """
    path = Path(recipe)
    folder = Path(out) if out is not None else path.parent
    if out is None and not (folder / "run.json").is_file():
        raise UsageError(f"No run folder was given for {path}.", do="add -o RUN")
    with watched(progress) as bars, held(folder, make=True):
        stages.run_all(start_job(folder, recipes.read(path, tuple(changes)), overwrite=overwrite, progress=bars))
    return Run(folder, progress)


def text_of(path: StrPath | None) -> str | None:
    """A path as a recipe has it."""
    return None if path is None else str(path)
