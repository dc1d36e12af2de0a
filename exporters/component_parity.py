"""Exports what stands around a latent model's denoiser and holds each file against torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from exporters.components import Component, autoencoder_components, conditioner_components, write_tokenizers
from exporters.ladder import NO_BF16
from exporters.parity import TOLERANCES, ParityError, relative_errors
from exporters.resume import KeptCalls, is_whole
from exporters.settings import ExportSettings
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json
from toolkit.models.autoencoder import Autoencoder, find_autoencoder
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.runners.onnxruntime import Session
from toolkit.runners.tensorrt import TensorRTRunner

logger = logging.getLogger(__name__)
AUTOENCODER = ("decoder", "encoder")
BATCHES = (1, 3)
STRETCH = {2: 2, 3: 3}  # an axis that is dynamic is also compared at that many times its size


def write_components(
    model: ModelFolder, settings: ExportSettings, folder: Path, work: Path | None = None
) -> dict[str, Any]:
    """Write the components of ``model`` to ``folder``; their worst deviations from torch by name.

    A model of pixels without a context has none. Files that are whole are taken as they are, and from ``work`` the
    results of long calls. Half of an autoencoder that float16 does not hold, as SDXL's, is written in float32, and so
    logged. Raises DtkError if one is out of tolerance.
    """
    kept = KeptCalls(work)
    if has_conditioner(model):
        write_tokenizers(open_conditioner(model), folder)
    by_component: dict[str, Any] = {}
    for component in components(model):
        path = folder / f"{component.name}.onnx"
        if not is_whole(path):
            component.write(folder, dtype=settings.dtype, opset=settings.known_opset)
        if settings.dtype == "bf16":
            by_component[component.name] = {"not_run": NO_BF16}
            continue
        expected = kept.around(f"torch {component.name} {model.sha256}", component.expected)
        by_component[component.name] = _held(replace(component, expected=expected), path, settings)
    return by_component


def _held(component: Component, path: Path, settings: ExportSettings) -> dict[str, Any]:
    """What ``compare`` finds of the file, which is written anew in float32 if it is one that may be and has to be."""
    in_fp32 = settings.model_copy(update={"dtype": "fp32"})
    if read_json(path.with_suffix(".json"))["dtype"] == "fp32":
        return compare(component, path, in_fp32)
    try:
        return compare(component, path, settings)
    except ParityError as error:
        if component.name not in AUTOENCODER:
            raise
        logger.warning("The %s is exported in fp32: in %s, %s.", component.name, settings.dtype, error.found)
    component.write(path.parent, dtype="fp32", opset=settings.known_opset)
    return compare(component, path, in_fp32)


def components(model: ModelFolder) -> list[Component]:
    """The other networks of the pipeline that ``model`` lies in."""
    folder, known = find_autoencoder(model), []
    if folder is not None:
        channels, height, width = model.input_specs()["sample"].shape
        known += autoencoder_components(lambda: Autoencoder.load(folder), (channels, height, width))
    return known + (conditioner_components(lambda: open_conditioner(model)) if has_conditioner(model) else [])


def has_conditioner(model: ModelFolder) -> bool:
    """Whether the folder says what makes the denoiser's context; that of a bare denoiser does not."""
    try:
        find_conditioning(model)
    except DtkError:
        return False
    return True


def compare(component: Component, path: Path, settings: ExportSettings) -> dict[str, Any]:
    """Hold an exported component against torch in batches of several sizes, and at another height and width."""
    with closing(Session(path)) as session:
        return _compared(component, session, "ONNX", _cases(component), settings)


def hold_engine(model: ModelFolder, name: str, plan: Path, onnx: Path, settings: ExportSettings) -> dict[str, Any]:
    """Hold the engine of a component, built from ``onnx``, against torch in batches it takes, on the GPU."""
    (component,) = (one for one in components(model) if one.name == name)
    sizes = sorted({size for size in (*BATCHES, settings.batch.max) if size <= settings.batch.max})
    cases = [(size, dict(component.specs)) for size in sizes]
    (output,) = component.outputs
    with closing(TensorRTRunner(plan, weights=onnx)) as engine:
        candidate = lambda inputs: {output: engine.run(inputs).cpu()}  # noqa: E731
        return _compared(component, candidate, "TensorRT engine", cases, settings)


def _compared(
    component: Component,
    candidate: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]],
    form: str,
    cases: Sequence[tuple[int, dict[str, InputSpec]]],
    settings: ExportSettings,
) -> dict[str, Any]:
    tolerance, errors = TOLERANCES[settings.dtype], {}
    for batch, specs in cases:
        inputs = example_inputs(specs, batch, seed=settings.seed)
        shape = "x".join(map(str, next(iter(inputs.values())).shape))
        expected, actual = component.expected(**inputs), candidate(inputs)
        pairs = ((expected[name], actual[name]) for name in component.outputs)
        errors[shape] = max(float(relative_errors(*pair).max()) for pair in pairs)
    worst = max(errors, key=lambda shape: errors[shape])
    if not errors[worst] <= tolerance:
        raise ParityError(
            f"The {component.name} as {form} {settings.dtype} does not compute what torch computes.",
            found=f"relative error {errors[worst]:.3g} at {worst}",
            expected=f"at most {tolerance:g} of the largest value",
            do=None if settings.dtype == "fp32" else "export --dtype fp32",
        )
    return {"tolerance": tolerance, "relative_error": errors}


def _cases(component: Component) -> list[tuple[int, dict[str, InputSpec]]]:
    cases = [(batch, dict(component.specs)) for batch in BATCHES]
    stretched = {name: _stretched(spec, component, name) for name, spec in component.specs.items()}
    return cases + ([(1, stretched)] if component.dimensions else [])


def _stretched(spec: InputSpec, component: Component, name: str) -> InputSpec:
    axes = component.dimensions.get(name, {})
    shape = tuple(size * STRETCH[axis] if axis in axes else size for axis, size in enumerate(spec.shape, start=1))
    return InputSpec(shape, spec.dtype, spec.upper)
