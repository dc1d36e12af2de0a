"""A run folder with its recipe: made, taken up, or refused before anything in it is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit import models, recipe
from toolkit.conditioner import check_data, context_tokens, find_conditioning
from toolkit.data.examples import Examples
from toolkit.data.images import Images
from toolkit.errors import DtkError
from toolkit.first_stage import find_first_stage, image_shape
from toolkit.measuring import Latencies, latencies
from toolkit.progress import Progress, silent
from toolkit.recipe import Recipe
from toolkit.run_folder import Run

Notice = Callable[[str], None]
REPLACED = (
    *("recover", "model", "evaluate", "export", "optimum", "tensorrt", "profile", "handoff", "against"),
    *("report.html", "report.json"),
)
"""What --overwrite removes. prune/ and cache/ stay: their keys tell whether scores and samples still serve."""


@dataclass(frozen=True)
class Job:
    """A run folder with its recipe, and whom to tell about progress."""

    run: Run
    recipe: Recipe
    progress: Progress = silent
    notice: Notice = lambda message: None

    @cached_property
    def dense(self) -> models.ModelFolder:
        """The model the run started from."""
        return models.find(self.recipe.model)

    @property
    def compressed(self) -> models.ModelFolder:
        """The run's result."""
        if not (self.run.path / "model").is_dir():
            raise DtkError(f"{self.run.path} has no model yet.", do=f"dtk compress -o {self.run.path}")
        return models.find(self.run.path / "model")

    @cached_property
    def device(self) -> str:
        """Where to compute."""
        return device_of(self.recipe)

    @property
    def reads_images(self) -> bool:
        """Whether images are read: given ones always, others only where something needs them."""
        from toolkit.pruning.catalog import criterion

        asked = self.recipe
        given = asked.data.source is not None or asked.model is None
        return given or bool(asked.recover or asked.evaluate) or criterion(asked.prune.criterion).reads_images

    @cached_property
    def images(self) -> tuple[Images, Images]:
        """Images to train on, and images to judge by."""
        from toolkit.data.open import open_images
        from toolkit.data.prepare import Fit
        from toolkit.data.split import split

        data, shape = self.recipe.data, image_shape(self.dense)
        fit = Fit(data.resize, data.crop)
        source = self._opened(open_images(data.source, shape, self.progress, fit=fit, stream=data.stream))
        if data.reference is not None:
            return source, self._opened(open_images(data.reference, shape, self.progress, fit=fit))
        return split(source, data.holdout, data.seed)

    @cached_property
    def examples(self) -> Examples:
        """What the denoiser is trained on: the training images, or their latents where the model works on those.

        Conditions that do not fit the model are refused; missing ones are told.
        """
        from toolkit.data.latents import Latents

        first_stage, train = find_first_stage(self.dense), self.images[0]
        told = check_data(find_conditioning(self.dense), train)
        if told:
            self.notice(told)
        if first_stage is None:
            return train
        return Latents(train, first_stage, self.run.path / "cache", self.device)

    def _opened(self, images: Images) -> Images:
        """The images, with what was skipped among them told."""
        for skipped in images.skipped[:5]:
            self.notice(f"Skipped {skipped}")
        if len(images.skipped) > 5:
            self.notice(f"Skipped {len(images.skipped)} files of {images.source} in all.")
        return images


def count(folder: models.ModelFolder, tokens: int | None = None) -> Any:
    """The function that counts parameters and MACs of a configuration of the folder's class, for the solver.

    ``tokens`` is the length of the context, None = what the folder says of it.
    """
    from profiles.macs import count_params
    from profiles.recount import Recount
    from toolkit.denoiser_inputs import example_inputs, input_specs
    from toolkit.pruning.cost import Cost

    dense = models.full_config(folder)
    specs = input_specs(folder.class_name, dense, tokens=tokens or context_tokens(folder))
    recount = Recount(models.build(folder.class_name, dense), example_inputs(specs, batch=1, device="meta"))

    def counted(config: dict[str, Any]) -> Cost:
        module = models.build(folder.class_name, config)
        by_part = recount(module)
        return Cost(count_params(module), sum(by_part.values()), by_part)

    return counted


def dry_run(asked: Recipe, progress: Progress = silent) -> dict[str, Any]:
    """The plan a recipe leads to, by width alone: loads no weights, reads no data, writes nothing into a run.

    A target in latency is measured, which fills the table of latencies in the user's cache.
    """
    from toolkit.pruning.stage import plan_by_width

    dense = models.find(asked.model)
    with measured(asked, dense, progress) as found:
        return plan_by_width(dense, asked.prune, count(dense, asked.prune.tokens), latencies=found, progress=progress)


@contextmanager
def measured(asked: Recipe, dense: models.ModelFolder, progress: Progress) -> Iterator[Latencies | None]:
    """What measures latencies, where the recipe's target is one."""
    from toolkit.pruning.targets import parse_target

    if parse_target(asked.prune.target).figure != "latency":
        yield None
        return
    with latencies(dense, asked.prune.latency, device_of(asked), progress) as found:
        yield found


def device_of(asked: Recipe) -> str:
    """Where a recipe computes."""
    import torch

    if asked.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise DtkError("torch sees no CUDA device here.", found=f"--device {asked.device}", expected="cpu")
    return asked.device


def start(path: Path, asked: Recipe, *, overwrite: bool, progress: Progress, notice: Notice) -> Job:
    """Make or take up the run folder. One of another recipe is refused, or emptied with ``overwrite``.

    Whatever can be checked without work is checked first, so that a command that cannot succeed changes nothing.
    """
    asked = recipe.resolved(asked)
    job = Job(Run(path), asked, progress, notice)
    dry_run(asked, progress)
    differ = _differences(path, asked)
    if differ and not overwrite:
        raise DtkError(
            f"{path} holds a run of another recipe.",
            found="; ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else ""),
            do="choose another folder with -o, or add --overwrite to replace it",
        )
    _ = job.device, job.reads_images and job.examples
    if differ:
        _clear(job.run)
    Run.create(path)
    recipe.kept(asked, path).write(path / "recipe.yaml")
    return job


def _differences(path: Path, asked: Recipe) -> list[str]:
    """Where the recipe of a run that has got somewhere differs in what its model was made by."""
    if not (path / "run.json").is_file() or not (path / "recipe.yaml").is_file():
        return []
    begun = Run.open(path).record()["stages"] or (path / "recover").is_dir()
    return recipe.differences(recipe.read(path / "recipe.yaml"), asked) if begun else []


def _clear(run: Run) -> None:
    run.forget()
    for name in REPLACED:
        entry = run.path / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def take_up(path: Path, progress: Progress = silent, notice: Notice = lambda message: None) -> Job:
    """The job of an existing run folder."""
    run = Run.open(path)
    return Job(run, recipe.read(path / "recipe.yaml"), progress, notice)
