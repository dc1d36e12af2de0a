"""A denoiser as an ONNX file: dynamic batch, one timestep per item, float32 at the borders.

Only torch's dynamo exporter is used. It traces without running the model, so half precision needs no hardware for it,
and the file's types are the types an engine of a strongly typed builder will have.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.fx import config

from exporters.settings import DtypeName, check_opset
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import file_sha256, replacing, write_json
from toolkit.models.precision import BorderedDenoiser

OUTPUT = "prediction"
TRACED_BATCH = 2  # torch.export takes sizes 0 and 1 for constants
# diffusers copies batches of 64 and more before it upsamples: stated here, torch need not find that out by a trace and
# then trace again. The graph does not contain the bound and takes any batch.
TRACED_BATCHES = 63
Dimensions = Mapping[str, Mapping[int, tuple[int, str]]]
"""Of an input: axis to (factor, name), for an axis that is any multiple of the factor."""
PROTOBUF_LIMIT = 2 * 2**30  # bytes; larger weights go into a file next to the graph


def export_onnx(
    denoiser: torch.nn.Module,
    specs: Mapping[str, InputSpec],
    path: Path,
    *,
    dtype: DtypeName = "fp32",
    opset: int = 21,
    keep_fp32: Sequence[str] = (),
    dimensions: Dimensions | None = None,
) -> dict[str, Any]:
    """Write ``denoiser`` to ``path`` with a description next to it (``.json``), which is returned.

    Inputs are named as in ``specs`` (sample, timestep, class_labels, encoder_hidden_states), the output ``prediction``;
    every first dimension is the dynamic ``batch``, others are dynamic if ``dimensions`` says so. The denoiser is
    converted to ``dtype`` in place, but for its modules that match ``keep_fp32``. Weights of more than 2 GiB go to
    ``path`` + ``.data``. Raises UsageError for an opset that cannot hold the dtype, DtkError if torch cannot export
    the model.
    """
    check_opset(opset, dtype)
    module = BorderedDenoiser(denoiser, dtype, keep_fp32)
    return write_onnx(
        module, specs, path, outputs=[OUTPUT], opset=opset, facts=precision_facts(module, dtype), dimensions=dimensions
    )


def precision_facts(module: BorderedDenoiser, dtype: DtypeName) -> dict[str, Any]:
    """What a description says of the types inside: the share of the parameters kept in float32, if there is one."""
    kept = module.kept_share if dtype != "fp32" else 0.0
    return {"dtype": dtype} | ({"kept_fp32_share": kept} if kept else {})


def write_onnx(
    module: torch.nn.Module,
    specs: Mapping[str, InputSpec],
    path: Path,
    *,
    outputs: Sequence[str],
    opset: int,
    facts: Mapping[str, Any],
    dimensions: Dimensions | None = None,
) -> dict[str, Any]:
    """Trace ``module`` over inputs ``specs`` to ``path``; the description next to it, with ``facts``, is returned.

    The batch is dynamic, and of an input the ``dimensions`` given for it. Raises DtkError if torch cannot export
    the module.
    """
    inputs, axes = example_inputs(specs, TRACED_BATCH), dynamic_axes(specs, dimensions or {})
    description = save(trace(module, inputs, axes, outputs, opset), module, path) | dict(facts)
    _check_dynamic(description, path)
    write_json(path.with_suffix(".json"), description)
    return description


def save(program: torch.onnx.ONNXProgram, module: torch.nn.Module, path: Path) -> dict[str, Any]:
    """Write a traced ``module`` to ``path``, large weights next to it, and check it; returns ``describe``'s facts."""
    with replacing(path) as temporary:
        external = _size_bytes(module) >= PROTOBUF_LIMIT
        program.save(temporary, external_data=external)
        onnx.checker.check_model(temporary, full_check=True)
        description = describe(temporary)
        if external:
            data = f"{path.name}.data"
            os.replace(temporary.with_name(data), path.with_name(data))
    return description


def _check_dynamic(description: Mapping[str, Any], path: Path) -> None:
    """Refuse a graph of one batch size: if tracing needs one, torch may fix it to the example's and continue."""
    borders = description["inputs"] | description["outputs"]
    fixed = [name for name, border in borders.items() if border["shape"][:1] != ["batch"]]
    if fixed:
        for name in description["sha256"]:
            (path.parent / name).unlink()
        raise DtkError("torch fixed the batch size of the exported graph.", found=f"in {', '.join(fixed)}")


def dynamic_axes(names: Iterable[str], dimensions: Dimensions) -> dict[str, dict[int, Any]]:
    """The dynamic axes of inputs for ``trace``: the batch of all of ``names``, and those of ``dimensions``."""
    batch = torch.export.Dim("batch", max=TRACED_BATCHES)
    sides = {side: torch.export.Dim(side) for axes in dimensions.values() for _, side in axes.values()}
    return {
        name: {0: batch}
        | {axis: _multiple(factor, sides[side]) for axis, (factor, side) in dimensions.get(name, {}).items()}
        for name in names
    }


def trace(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    axes: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """``module`` as a graph over example ``inputs`` whose ``axes`` are dynamic. Raises DtkError if torch cannot."""
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamic_shapes={name: dict(axes[name]) for name in inputs},
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = first_line(error.__cause__ or error)
            raise DtkError("torch cannot export this denoiser to ONNX.", found=reason) from error
    assert program is not None  # only the other exporter returns None
    for node in program.model.graph.all_nodes():  # torch 2.11 notes them whatever _quiet asks
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    return program


def _multiple(factor: int, side: Any) -> Any:
    return side if factor == 1 else factor * side


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns of its own deprecations and of a missing torchvision: no concern of the user's.

    Nor is it noted in the file where on this machine the code of each node lies, which would take a while.
    """
    logger = logging.getLogger("torch.onnx")
    level, unnoted = logger.level, getattr(config, "do_not_emit_stack_traces", False)
    logger.setLevel(logging.ERROR)
    config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
        config.do_not_emit_stack_traces = unnoted


def describe(path: Path) -> dict[str, Any]:
    """What an ONNX file holds: opset, inputs and outputs with shapes and types, and the hashes of its files."""
    model = onnx.load(path, load_external_data=False)
    files = [path, *(path.parent / name for name in _external_files(model))]
    return {
        "producer": f"{model.producer_name} {model.producer_version}",
        "opset": next(entry.version for entry in model.opset_import if entry.domain == ""),
        "inputs": {value.name: _tensor_type(value) for value in model.graph.input},
        "outputs": {value.name: _tensor_type(value) for value in model.graph.output},
        "size_bytes": sum(file.stat().st_size for file in files),
        "sha256": {file.name: file_sha256(file) for file in files},
    }


def _tensor_type(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
        "dtype": str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
    }


def _external_files(model: onnx.ModelProto) -> list[str]:
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _size_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
