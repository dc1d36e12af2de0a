"""ONNX Runtime: the provider that was requested, and files that are no models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("tf32", [False, True])
def test_the_cuda_provider_rounds_to_tf32_only_if_asked_to(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own default is to round."""
    given: list[object] = []

    def session(path: object, options: object, providers: list[tuple[str, dict[str, object]]]) -> object:
        given.extend(providers)
        return SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider"],
            disable_fallback=lambda: None,
            get_outputs=lambda: [SimpleNamespace(name="prediction")],
            get_inputs=list,
        )

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxRuntimeRunner(exported(), device="cuda:1", tf32=tf32)
    assert given == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": int(tf32)})]


def test_inputs_the_file_does_not_have_are_refused() -> None:
    inputs = example_inputs(specs_of(tiny_model()), 1)
    with pytest.raises(DtkError, match=r"takes other inputs[\s\S]*sample, timestep"):
        OnnxRuntimeRunner(exported())(**inputs, class_labels=torch.zeros(1, dtype=torch.int64))


def test_computes_with_as_many_threads_as_torch() -> None:
    runner = OnnxRuntimeRunner(exported())
    assert runner._session.get_session_options().intra_op_num_threads == torch.get_num_threads()
