"""A denoiser back into a stock diffusers folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core.errors import first_line
from toolkit.core.files import CARD, files_below
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import PICKLES

if TYPE_CHECKING:
    from diffusers import ModelMixin


def save_model(folder: ModelFolder, denoiser: ModelMixin, target: Path) -> None:
    """Write a stock diffusers folder at ``target``: ``folder``'s other components, and ``denoiser`` in its place."""
    if folder.component:
        _copy_others(folder.root, folder.component, target)
    elif (folder.scheduler / "scheduler_config.json").is_file():
        shutil.copytree(folder.scheduler, target / "scheduler")
    save_module(denoiser, target / folder.component)


def save_module(module: ModelMixin, target: Path) -> None:
    """Write config.json and safetensors of a diffusers module. Raises OSError if the disk is full."""
    try:
        module.save_pretrained(target, safe_serialization=True)
    except OSError:
        raise
    except Exception as error:  # safetensors reports a full disk as an error of its own
        raise OSError(first_line(error)) from error


def _copy_others(root: Path, component: str, target: Path) -> None:
    """Copy what is neither the component nor a card nor pickled; what links lead to, and not in circles."""
    for path in files_below(root):
        place = path.relative_to(root)
        if place.parts[0] not in (component, *CARD) and path.suffix not in PICKLES and path.is_file():
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)
