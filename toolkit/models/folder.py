"""diffusers models in, a denoiser with its scheduler and folder out; and back to a stock diffusers folder.

A model is a folder: a pipeline (``model_index.json``), a folder of components (``unet/``, ``scheduler/``) if no
stock pipeline exists, or one bare component (``config.json``).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.adapters.base import InputSpec, known_adapters
from toolkit.adapters.inputs import input_specs
from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import CARD, files_below, folder_sha256, read_json, read_object, value_sha256, write_json
from toolkit.models.weights import PICKLES, WEIGHTS, load_module

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin


DEFAULT_MODEL = Path(__file__).parents[1] / "default" / "fashion-ddpm-16"
"""The embedded default: a small real DDPM (UNet2DModel, 1.1 M parameters, 16x16 grey); a demo needs no network."""


OWN = {"ImageDecoder": "toolkit.models.decoder"}
"""Where the classes lie that are networks inside of diffusers' models."""
MOST_TIMESTEPS = 10**6
SIZES = {"layers": 1000, "channels": 2**16, "sample_size": 2**16}
"""What fields of a config with these words in their names may say; who says more did not train the model."""


@dataclass(frozen=True)
class ModelFolder:
    """Where a diffusion model lies: ``root`` is what the user named, ``component`` the denoiser's folder in it.

    ``component`` is "" if the root is itself the denoiser's folder.
    """

    root: Path
    component: str

    @property
    def denoiser(self) -> Path:
        return self.root / self.component

    @cached_property
    def config(self) -> dict[str, Any]:
        """The denoiser's config.json."""
        return read_object(self.denoiser / "config.json")

    @property
    def class_name(self) -> str:
        return str(self.config.get("_class_name", "of config.json, which names no _class_name"))

    def input_specs(self) -> dict[str, InputSpec]:
        """The denoiser's inputs by only its config; ``denoiser_inputs`` also knows the length of its context."""
        return input_specs(self.class_name, self.config)

    @cached_property
    def sha256(self) -> str:
        """One hash over every file of the folder but its card, and over the scheduler if that lies next to it."""
        inside = folder_sha256(self.root, CARD)
        separate = {} if self.scheduler.is_relative_to(self.root) else folder_sha256(self.scheduler)
        return value_sha256([inside, separate] if separate else inside)

    @property
    def scheduler(self) -> Path:
        """The scheduler's folder: in the root, or next to a bare component."""
        inside = self.root / "scheduler"
        sibling = self.root.parent / "scheduler"
        return sibling if not self.component and not inside.is_dir() and sibling.is_dir() else inside


def components() -> list[str]:
    """The names of a denoiser's folder in a pipeline."""
    return list(dict.fromkeys(adapter.component for adapter in known_adapters().values()))


def find_model(source: str | Path | None) -> ModelFolder:
    """The folder of ``source``: None is the embedded default, otherwise a folder or a hub id.

    Raises DtkError if nothing is there, if it is no diffusers model, or if its class is not known.
    """
    root = DEFAULT_MODEL if source is None else _local_folder(source)
    places = [name for name in components() if (root / name / "config.json").is_file()]
    if places:
        folder = ModelFolder(root, places[0])
    elif (root / "config.json").is_file() and "_class_name" in read_json(root / "config.json"):
        folder = ModelFolder(root, "")
    else:
        raise DtkError(
            f"{root} is neither a diffusers pipeline nor one of its components.",
            found=", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder",
            expected="unet/config.json or transformer/config.json, or a config.json that names its _class_name",
        )
    if folder.class_name not in known_adapters():
        raise DtkError(
            f"dtk does not know the model class {folder.class_name}.",
            found=f"{folder.denoiser / 'config.json'}",
            expected=f"one of {', '.join(known_adapters())}",
        )
    return folder


def _local_folder(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise DtkError(
            f"{path} is a pickled checkpoint, which dtk does not load as a model: unpickling can run any code.",
            expected="a diffusers folder with safetensors",
            do=f"convert it: dtk import {path} -o MODEL, or diffusers' save_pretrained if you trust it",
        )
    if path.is_dir():
        return path
    if path.exists():
        raise DtkError(f"{path} is a file.", expected="a diffusers folder (model_index.json or config.json)")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        return _from_hub(str(source))
    raise DtkError(
        f"No such model: {source}.", expected="a diffusers folder, or a hub id such as google/ddpm-cifar10-32"
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", WEIGHTS]))
    except Exception as error:  # the hub client raises many kinds: not found, gated, offline
        raise DtkError(
            f"No such model: {name} is not a local folder, and the hub did not give it.",
            found=first_line(error),
            expected="a diffusers folder, or a hub id that can be reached",
        ) from error


def model_class(name: str) -> type[ModelMixin]:
    """The class of a known name: diffusers' own, or one of ``OWN``."""
    model_class: type[ModelMixin] = getattr(importlib.import_module(OWN.get(name, "diffusers")), name)
    return model_class


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's own fields, as JSON has them: diffusers' notes (keys with a leading underscore) left out."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if not key.startswith("_")
    }


def build_model(class_name: str, config: Mapping[str, Any], device: str = "meta") -> ModelMixin:
    """A fresh denoiser of a stock configuration; on ``meta`` it has shapes and no memory."""
    import torch
    from diffusers.models.modeling_utils import no_init_weights

    with torch.device(device), no_init_weights() if device == "meta" else contextlib.nullcontext():
        model: ModelMixin = model_class(class_name).from_config(plain_config(config))
    return model.eval()


def built_config(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of its class for fields that it leaves out."""
    return plain_config(build_model(class_name, config).config)


def full_config(folder: ModelFolder) -> dict[str, Any]:
    """The denoiser's configuration with the defaults of its class. Raises DtkError for one that describes no model."""
    path = folder.denoiser / "config.json"
    for name, value in folder.config.items():  # of what is told here at once the rest would take hours
        most = next((most for part, most in SIZES.items() if part in name), None)
        if most and not all(1 <= number <= most for number in _numbers(value)):
            found, expected = f"{name} {json.dumps(value)}", f"1 to {most}"
            raise DtkError(f"{path} describes no {folder.class_name}.", found=found, expected=expected)
    try:
        return built_config(folder.class_name, folder.config)
    except Exception as error:  # diffusers' constructors raise errors of every kind
        raise DtkError(f"{path} describes no {folder.class_name}.", found=first_line(error)) from error


def _numbers(value: Any) -> Iterator[float]:
    """The numbers of nested lists; NaN for what is none."""
    if isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif value is not None:
        yield value if isinstance(value, int | float) else math.nan


def refuse_quantised(folder: ModelFolder) -> None:
    """Raise DtkError for a model whose config says that it is quantised."""
    if "quantization_config" in folder.config:
        raise DtkError(f"{folder.root} is quantised.", expected="float weights", do="prune first, quantise afterwards")


def load_denoiser(folder: ModelFolder) -> ModelMixin:
    """The denoiser with its weights, float32, in eval mode.

    Raises DtkError if the weights are pickled, damaged, incomplete, of other shapes, or not finite.
    """
    model: ModelMixin = load_module(folder.denoiser, model_class(folder.class_name))
    return model


def load_scheduler(folder: ModelFolder) -> SchedulerMixin:
    """The model's scheduler, as the class its config names."""
    path = folder.scheduler / "scheduler_config.json"
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


def _copy_others(root: Path, component: str, target: Path) -> None:
    """Copy what is neither the component nor a card nor pickled; what links lead to, and not in circles."""
    for path in files_below(root):
        place = path.relative_to(root)
        if place.parts[0] not in (component, *CARD) and path.suffix not in PICKLES and path.is_file():
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)
