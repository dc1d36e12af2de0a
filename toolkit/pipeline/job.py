"""A run folder with its recipe: made, resumed, or refused before anything in it is touched."""

from __future__ import annotations

import logging
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.adapters.base import adapter_of
from toolkit.core.environment import resolve_device
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import MODEL, RunFolder
from toolkit.data.examples import Examples
from toolkit.data.images import Images
from toolkit.data.open import open_images, split
from toolkit.data.prepare import Fit
from toolkit.models.autoencoder import find_autoencoder, image_shape
from toolkit.models.build import full_config
from toolkit.models.conditioning import check_data, denoiser_inputs, find_conditioning
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.latents import Latents
from toolkit.pipeline import decoder as decoder_stage
from toolkit.pipeline import prune as prune_stage
from toolkit.pipeline import recipe
from toolkit.pipeline.recipe import Recipe
from toolkit.pruning.criteria.base import criterion_called
from toolkit.pruning.latency import Latencies, latencies_for

logger = logging.getLogger(__name__)
REPLACED = (
    *("rounds", "decoder", "recover", "model", "evaluate", "export", "optimum", "tensorrt"),
    *("profile", "verify", "handoff", "against", "report.html", "report.json"),
)
"""What --overwrite removes. prune/ and cache/ stay: their keys tell whether scores and samples still serve."""


@dataclass(frozen=True)
class Job:
    """A run folder with its recipe, and what shows its progress."""

    run: RunFolder
    recipe: Recipe
    progress: Progress = silent

    @cached_property
    def dense(self) -> ModelFolder:
        """The model the run started from."""
        return find_model(self.recipe.model)

    @property
    def compressed(self) -> ModelFolder:
        """The run's result."""
        if not (self.run.path / "model").is_dir():
            raise DtkError(f"{self.run.path} has no model yet.", do=f"dtk compress -o {self.run.path}")
        return find_model(self.run.path / "model")

    @cached_property
    def device(self) -> str:
        """Where to compute."""
        return resolve_device(self.recipe.device)

    @property
    def reads_images(self) -> bool:
        """Whether images are read: given ones always, others only if something needs them."""

        requested = self.recipe
        given = requested.data.source is not None or requested.model is None
        return (
            given
            or bool(requested.recover or requested.evaluate or requested.decoder)
            or criterion_called(requested.prune.criterion).reads_images
        )

    @cached_property
    def images(self) -> tuple[Images, Images]:
        """Images to train on, and images to judge by."""

        data, shape = self.recipe.data, image_shape(self.dense)
        fit = Fit(data.resize, data.crop)
        source = self._opened(open_images(data.source, shape, self.progress, fit=fit, stream=data.stream))
        if data.reference is None:
            return split(source, data.holdout, data.seed)
        reference = self._opened(open_images(data.reference, shape, self.progress, fit=fit))
        return source, self._with_ids_of(source, reference)

    @cached_property
    def examples(self) -> Examples:
        """What the denoiser is trained on: the training images, or their latents if the model works on those.

        Conditions that do not fit the model are refused; missing ones are logged.
        """

        for images in self.images[: 1 if self.recipe.data.reference is None else 2]:
            if note := check_data(find_conditioning(self.dense), images):
                logger.warning(note)
        return self._as_trained_on(self.images[0])

    @property
    def held_out(self) -> Examples:
        """The images to judge by, in the form of ``examples``."""
        return self._as_trained_on(self.images[1])

    def _as_trained_on(self, images: Images) -> Examples:
        autoencoder = find_autoencoder(self.dense)
        return Latents(images, autoencoder, self.run.path / "cache", self.device) if autoencoder else images

    def _with_ids_of(self, source: Images, reference: Images) -> Images:
        """The reference with the class ids of ``source``, if both have subfolders, and ids are what the model takes."""
        names, own = source.described.class_names, reference.described.class_names
        if not names or not own or names == own or find_conditioning(self.dense).kind != "class":
            return reference
        return replace(reference, described=reference.described.with_ids_of(names, reference.source))

    def _opened(self, images: Images) -> Images:
        """The images, with what was skipped among them logged."""
        for skipped in images.skipped[:5]:
            logger.warning("Skipped %s", skipped)
        if len(images.skipped) > 5:
            logger.warning("Skipped %d files of %s in all.", len(images.skipped), images.source)
        return images


def dry_run(requested: Recipe, progress: Progress = silent) -> dict[str, Any]:
    """The plan a recipe leads to, by width only: loads no weights, reads no data, writes nothing into a run.

    A target in latency is measured, which fills the table of latencies in the user's cache.
    """
    dense = find_model(requested.model)
    if requested.earlier_targets and not adapter_of(dense.class_name).has_widths:
        raise UsageError("Rounds prune widths, and this class is pruned only by blocks.", found=dense.class_name)
    with measured(requested, dense, progress) as latencies:
        return prune_stage.dry_run(dense, requested.prune, latencies=latencies, progress=progress)


def measured(requested: Recipe, dense: ModelFolder, progress: Progress) -> AbstractContextManager[Latencies | None]:
    """What measures latencies if the recipe's target is one."""
    config, specs = full_config(dense), denoiser_inputs(dense)
    return latencies_for(dense.class_name, config, specs, requested.prune, requested.device, progress)


def start_job(path: Path, requested: Recipe, *, overwrite: bool = False, progress: Progress = silent) -> Job:
    """Make or open the run folder. One of another recipe is refused, or emptied with ``overwrite``.

    Whatever can be checked without work is checked first, so that a command that cannot succeed changes nothing.
    """
    requested = recipe.resolved(recipe.at_home(requested, path))
    job = Job(RunFolder(path), requested, progress)
    if requested.resume_from is None:
        dry_run(requested, progress)
    if requested.decoder is not None:
        decoder_stage.dry_run(job.dense, requested.decoder)
    differ = _differences(path, requested)
    if differ and not overwrite:
        raise DtkError(
            f"{path} holds a run of another recipe.",
            found="; ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else ""),
            do="choose another folder with -o, or add --overwrite to replace it",
        )
    if differ:
        _refuse_to_replace_what_is_read(path, requested)
    _ = job.device, job.reads_images and job.examples
    if differ:
        _clear(job.run)
    RunFolder.create(path)
    recipe.kept(requested, path).write(path / "recipe.yaml")
    return job


def _differences(path: Path, requested: Recipe) -> list[str]:
    """Where the recipe of a run that has begun differs in what its model was made by."""
    if not (path / "run.json").is_file() or not (path / "recipe.yaml").is_file():
        return []
    begun = RunFolder.open(path).record()["stages"] or (path / "recover").is_dir()
    return recipe.differences(recipe.at_home(recipe.read(path / "recipe.yaml"), path), requested) if begun else []


def _refuse_to_replace_what_is_read(path: Path, requested: Recipe) -> None:
    data, resumed = requested.data, requested.resume_from
    of_run = None if resumed is None else str(Path(resumed) / MODEL)
    replaced = [(path / name).resolve() for name in REPLACED]
    for read in filter(None, (requested.model, resumed, of_run, data.source, data.reference)):
        if any(Path(read).resolve().is_relative_to(entry) for entry in replaced):
            raise UsageError(
                f"To replace {path} would remove what the new run is made of.",
                found=f"{read} in it",
                do="choose another folder with -o",
            )


def _clear(run: RunFolder) -> None:
    run.forget()
    for name in REPLACED:
        entry = run.path / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def open_job(path: Path, progress: Progress = silent) -> Job:
    """The job of an existing run folder."""
    run = RunFolder.open(path)
    return Job(run, recipe.at_home(recipe.read(path / "recipe.yaml"), path), progress)
