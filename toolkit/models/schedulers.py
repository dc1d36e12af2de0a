"""A model's scheduler, read from its folder and written into one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import make_folder, read_json, read_object, write_json
from toolkit.models.folder import SCHEDULER_CONFIG, ModelFolder

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

MOST_TIMESTEPS = 10**6


def load_scheduler(folder: ModelFolder) -> SchedulerMixin:
    """The model's scheduler, as the class its config names."""
    path = folder.scheduler / SCHEDULER_CONFIG
    if not path.is_file():
        raise DtkError(
            f"{folder.root} has no scheduler, so its noise levels are not known.",
            found=f"no {path}",
            do="put the scheduler_config.json it was trained with into a folder scheduler/ there; if its noise levels "
            f"are DDPM's: dtk import {folder.root} --scheduler ddpm -o MODEL",
        )
    return read_scheduler(path)


def read_scheduler(path: Path) -> SchedulerMixin:
    """The scheduler that a scheduler_config.json describes. Raises DtkError for one that diffusers does not have."""
    import diffusers

    config = read_object(path)
    name = str(config.get("_class_name"))
    if not name.endswith("Scheduler") or not hasattr(diffusers, name):
        raise DtkError(f"{path} names no scheduler of diffusers.", found=f"_class_name {name}")
    if (count := config.get("num_train_timesteps")) and (
        not isinstance(count, int) or not 1 <= count <= MOST_TIMESTEPS
    ):
        raise DtkError(f"{path} describes no {name}.", found=f"num_train_timesteps {count}", expected="some thousands")
    try:
        scheduler: SchedulerMixin = getattr(diffusers, name).from_config(config)
    except Exception as error:  # a schedule it does not have, text for a number, ...
        raise DtkError(f"{path} describes no {name}.", found=first_line(error)) from error
    return scheduler


def copy_scheduler(source: ModelFolder, target: Path) -> None:
    """Let the diffusers folder ``target`` be sampled as ``source`` is, by its scheduler and its class of pipeline."""
    make_folder(target / "scheduler")
    shutil.copyfile(source.scheduler / SCHEDULER_CONFIG, target / "scheduler" / SCHEDULER_CONFIG)
    index, of_source = target / "model_index.json", source.root / "model_index.json"
    if index.is_file() and of_source.is_file():
        taken = {name: read_json(of_source)[name] for name in ("_class_name", "scheduler")}
        write_json(index, read_json(index) | taken)


def save_scheduler(scheduler: SchedulerMixin, target: Path) -> None:
    """Write ``scheduler`` into a diffusers folder in the place of its own.

    DDPM's pipeline, which makes any scheduler DDPM's, becomes DDIM's.
    """
    scheduler.save_pretrained(target / "scheduler")
    path = target / "model_index.json"
    if path.is_file():
        index = read_json(path) | {"scheduler": ["diffusers", type(scheduler).__name__]}
        if index["_class_name"] == "DDPMPipeline":
            index["_class_name"] = "DDIMPipeline"
        write_json(path, index)
