"""Tiny models exported once for all tests that need a file."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from exporters.onnx import export_onnx
from exporters.settings import DtypeName
from tests.tiny import ONE_BLOCK, PLAIN, tiny_folder
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import input_specs
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder

SHAPE = PLAIN | {"add_attention": True}  # in the middle alone: every operator, and not often
_folder = tempfile.TemporaryDirectory(prefix="dtk-tests-")
TIMESTEPS = 100  # of tiny_folder's scheduler


def tiny_model(classes: int | None = None, *, one_block: bool = False) -> ModelFolder:
    """A folder with a tiny UNet; ``classes`` gives it class labels; with one block it is not that of ``exported``."""
    return _tiny_model(classes, one_block)


@cache
def _tiny_model(classes: int | None, one_block: bool) -> ModelFolder:
    path = Path(_folder.name) / f"model-{classes}-{one_block}"
    return tiny_folder(path, num_class_embeds=classes, **ONE_BLOCK if one_block else SHAPE)


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
