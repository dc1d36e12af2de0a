"""Where a diffusers model lies, and which part of it is the denoiser.

A model is a folder: a pipeline (``model_index.json``), a folder of components (``unet/``, ``scheduler/``) if no
stock pipeline exists, or one bare component (``config.json``). A pipeline may lie flat, denoiser and scheduler in the
root, as google/ddpm-cifar10-32 does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.adapters.base import InputSpec, known_adapters
from toolkit.adapters.inputs import input_specs
from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import CARD, folder_sha256, read_json, read_object, value_sha256
from toolkit.models.weights import PICKLES, WEIGHTS

DEFAULT_MODEL = Path(__file__).parents[1] / "default" / "fashion-ddpm-16"
"""The embedded default: a small real DDPM (UNet2DModel, 1.1 M parameters, 16x16 grey); a demo needs no network."""

SCHEDULER_CONFIG = "scheduler_config.json"


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
        """The denoiser's class; an older diffusers called a DiT by another name, as the published ones still do."""
        name = str(self.config.get("_class_name", "of config.json, which names no _class_name"))
        is_dit = name == "Transformer2DModel" and self.config.get("norm_type") == "ada_norm_zero"
        return "DiTTransformer2DModel" if is_dit else name

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
        """The scheduler's folder: in the root, the root of a flat pipeline, or next to a bare component."""
        if not self.component and (self.root / SCHEDULER_CONFIG).is_file():
            return self.root
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
