"""A denoiser back into a stock diffusers folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.adapters.base import adapter_of
from toolkit.core.errors import first_line
from toolkit.core.files import CARD, files_below, make_folder, read_json
from toolkit.models.conditioning import CLASS_EMBEDDING
from toolkit.models.folder import SCHEDULER_CONFIG, ModelFolder
from toolkit.models.schedulers import copy_scheduler
from toolkit.models.weights import PICKLES

if TYPE_CHECKING:
    from diffusers import ModelMixin

INDEX = "model_index.json"


def save_model(folder: ModelFolder, denoiser: ModelMixin, target: Path) -> None:
    """Write a stock diffusers folder at ``target``: ``folder``'s other components, and ``denoiser`` in its place.

    A pipeline that lies flat gets a folder for each part.
    """
    component, index = folder.component, folder.root / INDEX
    if component:
        _copy_others(folder.root, component, target)
    elif index.is_file():
        component = adapter_of(folder.class_name).component
        make_folder(target)
        shutil.copyfile(index, target / INDEX)
    if not folder.component and (folder.scheduler / SCHEDULER_CONFIG).is_file():
        copy_scheduler(folder, target)
    save_module(denoiser, target / component)


def save_module(module: ModelMixin, target: Path) -> None:
    """Write config.json and safetensors of a diffusers module. Raises OSError if the disk is full."""
    try:
        module.save_pretrained(target, safe_serialization=True)
    except OSError:
        raise
    except Exception as error:  # safetensors reports a full disk as an error of its own
        raise OSError(first_line(error)) from error


def _copy_others(root: Path, component: str, target: Path) -> None:
    """Copy the other components and what describes them; what links lead to, and not in circles.

    Left out are cards, what is pickled, and of a pipeline what its index does not name: a trainer's checkpoints, an
    average of the dense weights, or all of them in a single file.
    """
    index = read_json(root / INDEX) if (root / INDEX).is_file() else None
    for path in files_below(root):
        place = path.relative_to(root)
        first, of_root = place.parts[0], len(place.parts) == 1
        is_weights = path.suffix == ".safetensors" and first != CLASS_EMBEDDING
        foreign = index is not None and (is_weights if of_root else not isinstance(index.get(first), list))
        if first not in (component, *CARD) and not foreign and path.suffix not in PICKLES and path.is_file():
            make_folder((target / place).parent)
            shutil.copyfile(path, target / place)
