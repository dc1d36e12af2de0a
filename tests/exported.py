"""Tiny models exported once for all tests that need a file."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from exporters.onnx import export_onnx
from exporters.settings import DtypeName
from tests.tiny import TWO_LEVELS, tiny_folder
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import input_specs
from toolkit.models.folder import ModelFolder, load_denoiser

_folder = tempfile.TemporaryDirectory(prefix="dtk-tests-")
TIMESTEPS = 100  # of tiny_folder's scheduler


def tiny_model(classes: int | None = None) -> ModelFolder:
    """A folder with a tiny UNet; ``classes`` gives it class labels."""
    return _tiny_model(classes)


@cache
def _tiny_model(classes: int | None) -> ModelFolder:
    return tiny_folder(Path(_folder.name) / f"model-{classes}", num_class_embeds=classes, **TWO_LEVELS)


def specs_of(model: ModelFolder) -> dict[str, InputSpec]:
    return input_specs(model.class_name, model.config, timesteps=TIMESTEPS)


def exported(dtype: DtypeName = "fp32", opset: int = 21, classes: int | None = None) -> Path:
    """The ONNX file of ``tiny_model(classes)``."""
    return _exported(dtype, opset, classes)


@cache
def _exported(dtype: DtypeName, opset: int, classes: int | None) -> Path:
    model = tiny_model(classes)
    path = Path(_folder.name) / f"{dtype}-{opset}-{classes}.onnx"
    export_onnx(load_denoiser(model), specs_of(model), path, dtype=dtype, opset=opset)
    return path
