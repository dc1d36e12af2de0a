"""Exported files: what they compute, what they are typed as, and that they are whole or absent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import onnx
import pytest
import torch

import exporters.onnx
from exporters.onnx import describe, export_onnx
from exporters.settings import DtypeName
from tests import traces
from tests.exported import exported, specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256
from toolkit.models.build import load_denoiser
from toolkit.runners.onnxruntime import OnnxRuntimeRunner

pytestmark = pytest.mark.slow  # every test needs an export

NUMPY = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
kinds = pytest.mark.parametrize(
    ("dtype", "opset"),
    [("fp32", 21), ("fp16", 21), ("bf16", 22), ("fp32", 18), ("fp32", 23), ("fp16", 18), ("fp16", 23)],
)


def graph(dtype: DtypeName, opset: int) -> onnx.ModelProto:
    return onnx.load(exported(dtype, opset))


@kinds
def test_borders_are_named_dynamic_and_float32(dtype: DtypeName, opset: int) -> None:
    found = describe(exported(dtype, opset))
    assert found["opset"] == opset
    assert found["inputs"] == {
        "sample": {"shape": ["batch", 3, 8, 8], "dtype": "float32"},
        "timestep": {"shape": ["batch"], "dtype": "int64"},
    }
    assert found["outputs"] == {"prediction": {"shape": ["batch", 3, 8, 8], "dtype": "float32"}}


@kinds
def test_weights_have_the_type_that_was_asked_for(dtype: DtypeName, opset: int) -> None:
    """The engine of a strongly typed builder has the graph's types, so this is what decides its precision."""
    bytes_by_type: Counter[str] = Counter()
    for tensor in graph(dtype, opset).graph.initializer:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if len(tensor.dims) >= 2 and kind != np.int64:
            bytes_by_type[str(kind)] += int(np.prod(tensor.dims)) * kind.itemsize
    assert bytes_by_type[NUMPY[dtype]] > 0.95 * bytes_by_type.total()


@kinds
def test_computes_what_torch_computes_at_every_batch(dtype: DtypeName, opset: int) -> None:
    if dtype == "bf16":
        pytest.skip("ONNX Runtime has no bfloat16 matrix product on a CPU")
    runner, reference = OnnxRuntimeRunner(exported(dtype, opset)), load_denoiser(tiny_model())
    for batch in (1, 7, 65):
        inputs = example_inputs(specs_of(tiny_model()), batch)
        with torch.no_grad():
            expected = reference(**inputs).sample
        error = (runner(**inputs) - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE[dtype]


def test_the_opset_decides_the_form_of_norms_and_attention() -> None:
    operators = Counter(node.op_type for node in graph("fp32", 21).graph.node)
    norms = sum(isinstance(part, torch.nn.GroupNorm) for part in load_denoiser(tiny_model()).modules())
    assert operators["GroupNormalization"] == norms
    assert not operators["InstanceNormalization"]


def test_opset_18_has_no_group_norm_and_23_has_attention() -> None:
    assert not any(node.op_type == "GroupNormalization" for node in graph("fp32", 18).graph.node)
    assert any(node.op_type == "Attention" for node in graph("fp32", 23).graph.node)


def test_the_description_beside_the_file_is_true() -> None:
    path = exported("fp16", 21)
    found = json.loads(path.with_suffix(".json").read_text())
    assert found == describe(path) | {"dtype": "fp16"}
    assert found["sha256"] == {path.name: file_sha256(path)}
    assert found["size_bytes"] == path.stat().st_size


def test_weights_past_the_limit_of_protobuf_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.onnx, "PROTOBUF_LIMIT", 1)
    model, path = tiny_model(), tmp_path / "big.onnx"
    found = export_onnx(load_denoiser(model), specs_of(model), path)
    assert set(found["sha256"]) == {"big.onnx", "big.onnx.data"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["big.json", "big.onnx", "big.onnx.data"]
    inputs = example_inputs(specs_of(model), 2)
    torch.testing.assert_close(
        OnnxRuntimeRunner(path)(**inputs), OnnxRuntimeRunner(exported())(**inputs), rtol=0, atol=1e-6
    )


def test_a_model_that_cannot_be_traced_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            return (sample if sample.sum() > 0 else -sample,)

    with pytest.raises(DtkError, match="torch cannot export this denoiser to ONNX"):
        export_onnx(Branching(), specs_of(tiny_model()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_opset_without_the_type_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bfloat16 convolution"):
        export_onnx(torch.nn.Identity(), {}, tmp_path / "model.onnx", dtype="bf16", opset=21)


def test_exporting_says_nothing_not_even_of_this_machine_and_traces_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, traced = torch.export.export, []

    def counted(*arguments: Any, **options: Any) -> torch.export.ExportedProgram:
        traced.append(options["dynamic_shapes"])
        return trace(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", traces.EXPORT)
    monkeypatch.setattr(torch.export, "export", counted)
    export_onnx(load_denoiser(tiny_model()), specs_of(tiny_model()), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert str(Path(diffusers.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    assert len(traced) == 1


def test_a_torch_that_always_notes_where_code_lies_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", traces.EXPORT)
    monkeypatch.setattr("exporters.onnx.config", SimpleNamespace())  # torch 2.11 has no such setting
    export_onnx(load_denoiser(tiny_model()), specs_of(tiny_model()), tmp_path / "model.onnx")
    assert str(Path(diffusers.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
