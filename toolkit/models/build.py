"""The network that a configuration describes: empty, or with a model's weights."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import DtkError, first_line
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import load_module

if TYPE_CHECKING:
    from diffusers import ModelMixin

OWN = {"ImageDecoder": "toolkit.models.decoder"}
"""Where the classes lie that are networks inside of diffusers' models."""
SIZES = {"layers": 1000, "channels": 2**16, "sample_size": 2**16}
"""What fields of a config with these words in their names may say; who says more did not train the model."""


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
