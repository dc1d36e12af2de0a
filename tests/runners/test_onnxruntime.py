"""ONNX Runtime: the provider that was requested, and files that are no models."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from tests.exported import exported, specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.runners.onnxruntime import OnnxRuntimeRunner


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(exported().read_bytes()[:1000])
    with pytest.raises(DtkError, match=r"ONNX Runtime cannot load .*broken\.onnx"):
        OnnxRuntimeRunner(path)


def test_a_missing_provider_says_what_to_install() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(MissingToolError, match=r"no CUDAExecutionProvider[\s\S]*onnxruntime-gpu"):
        OnnxRuntimeRunner(exported(), device="cuda")


def test_a_session_that_fell_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime does where the CUDA provider's libraries do not load: a warning, and the CPU."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(DtkError, match=r"fell back on CPUExecutionProvider[\s\S]*CUDAExecutionProvider"):
        OnnxRuntimeRunner(exported(), device="cuda")


def test_inputs_the_file_does_not_have_are_refused() -> None:
    inputs = example_inputs(specs_of(tiny_model()), 1)
    with pytest.raises(DtkError, match=r"takes other inputs[\s\S]*sample, timestep"):
        OnnxRuntimeRunner(exported())(**inputs, class_labels=torch.zeros(1, dtype=torch.int64))


def test_computes_with_as_many_threads_as_torch() -> None:
    runner = OnnxRuntimeRunner(exported())
    assert runner._session.get_session_options().intra_op_num_threads == torch.get_num_threads()
