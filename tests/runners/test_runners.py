"""Laws every runner keeps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.exported import exported, specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, MissingToolError, UsageError
from toolkit.core.files import write_json
from toolkit.core.numerics import torch_numerics
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import (
    Precision,
    Runner,
    RunnerSpec,
    known_runners,
    open_runner,
    open_spec,
    parse_runner,
    precision_of,
    runner_reads,
    unavailable,
)

COMPILED = {name for name in known_runners() if name.startswith("compile")}
SLOW = COMPILED | {name for name in known_runners() if runner_reads(name) == "onnx"}
each_runner = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in known_runners()]
)


def model_of(name: str, classes: int | None = None) -> ModelFolder:
    """What ``name`` runs: little where every operator is compiled, for every batch size."""
    return tiny_model(classes, one_block=name in COMPILED)


def opened(name: str, classes: int | None = None) -> Runner:
    if reason := unavailable(name):
        pytest.skip(reason)
    sources: dict[str, ModelFolder | Path] = {"model": model_of(name, classes)}
    if runner_reads(name) == "onnx":
        sources["onnx"] = exported(classes=classes)
    if runner_reads(name) == "engine":
        pytest.skip("engines have tests of their own")
    return open_runner(name, sources[runner_reads(name)])


@pytest.mark.slow
@each_runner
@pytest.mark.parametrize("classes", [None, 5])
def test_agrees_with_the_diffusers_model(name: str, classes: int | None) -> None:
    model = model_of(name, classes)
    reference = load_denoiser(model)
    with closing(opened(name, classes)) as runner:
        for batch in (1, 3):
            inputs = example_inputs(specs_of(model), batch)
            with torch.no_grad():
                expected = reference(**inputs).sample
            prediction = runner(**inputs)
            assert prediction.shape == expected.shape
            assert prediction.dtype == torch.float32
            torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)


@each_runner
def test_leaves_its_inputs_and_earlier_predictions_alone(name: str) -> None:
    with closing(opened(name)) as runner:
        first = example_inputs(specs_of(tiny_model()), 3)
        copies = {key: value.clone() for key, value in first.items()}
        prediction = runner(**first)
        kept = prediction.clone()
        runner(**example_inputs(specs_of(tiny_model()), 3, seed=1))
        assert torch.equal(prediction, kept)
        assert all(torch.equal(first[key], copies[key]) for key in first)


@each_runner
def test_says_who_and_where_it_is(name: str) -> None:
    with closing(opened(name)) as runner:
        assert (runner.name, runner.device) == (name, "cpu")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_torch_computes_in_half_precision_behind_float_borders(dtype: str) -> None:
    inputs = example_inputs(specs_of(tiny_model()), 2)
    exact, half = open_runner("torch", tiny_model()), open_runner("torch", tiny_model(), dtype=dtype)
    expected, prediction = exact(**inputs), half(**inputs)
    assert prediction.dtype == torch.float32
    error = ((prediction - expected).abs().max() / expected.abs().max()).item()
    assert 1e-5 < error < 5e-2  # rounded, and only rounded


@each_runner
def test_a_missing_gpu_is_a_reason_not_a_fallback(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert unavailable(name, "cuda")
    with pytest.raises(MissingToolError, match=f"The runner {name} is not available on cuda"):
        open_runner(name, tiny_model(), device="cuda")


def test_an_unknown_runner_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"Unknown runner 'tflite'.\n.*onnxruntime, .*torch"):
        open_runner("tflite", tiny_model())


@each_runner
def test_a_spec_is_read_as_it_is_written(name: str) -> None:
    for spec in (RunnerSpec(name), *(RunnerSpec(name, dtype) for dtype in get_args(Precision))):
        assert parse_runner(str(spec)) == spec
    for text, said in ((f"{name}:int3", "Unknown precision 'int3'"), (f"{name}:", "Unknown precision ''")):
        with pytest.raises(UsageError, match=said):
            parse_runner(text)


def test_a_file_of_another_precision_than_the_spec_says_is_refused(tmp_path: Path) -> None:
    file, plan = tmp_path / "a.onnx", tmp_path / "a.plan"
    write_json(file.with_suffix(".json"), {"dtype": "fp16"})
    assert precision_of(parse_runner("onnxruntime"), file) == precision_of(parse_runner("onnxruntime:fp16"), file)
    assert precision_of(parse_runner("openvino:bf16"), file) == "bf16", "it computes in another than its file's"
    with pytest.raises(DtkError, match="onnxruntime:tf32 needs another file"):
        precision_of(parse_runner("onnxruntime:tf32"), file)
    write_json(plan.with_suffix(".json"), {"facts": {"dtype": "fp32", "tf32": True}})
    assert precision_of(parse_runner("tensorrt"), plan) == "tf32"
    with pytest.raises(DtkError, match=r"tensorrt:fp32 needs another[\s\S]*in tf32"):
        precision_of(parse_runner("tensorrt:fp32"), plan)
    write_json(file.with_suffix(".json"), {"dtype": "fp16"})
    with pytest.raises(
        DtkError, match=r"onnxruntime:fp32 needs another file[\s\S]*in fp16\n  do: dtk export RUN --dtype fp32"
    ):
        open_spec(parse_runner("onnxruntime:fp32"), file)


@each_runner
def test_torch_rounds_to_tf32_only_for_the_precision_that_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the flags change nothing; that they are set while the denoiser runs is what a GPU would see."""
    if runner_reads(name) != "model" or unavailable(name):
        pytest.skip("of torch")
    seen: list[tuple[bool, bool]] = []

    def flags(*inputs: object) -> None:
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))

    with torch_numerics(tf32=True), closing(open_runner(name, tiny_model())) as runner:
        monkeypatch.setattr(type(runner), "_predict", lambda *inputs, **conditioning: flags())
        for tf32 in (False, True):
            runner._tf32 = tf32
            runner(**example_inputs(specs_of(tiny_model()), 1))
        assert torch.backends.cuda.matmul.allow_tf32, "a program of its own is left with its own"
    assert seen == [(False, False), (True, True)]
    with pytest.raises(UsageError, match="no tf32 on cpu"):
        open_runner(name, tiny_model(), dtype="tf32")


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_source_of_the_wrong_kind_is_refused(name: str) -> None:
    wrong: ModelFolder | Path = tiny_model() if runner_reads(name) == "onnx" else Path("model.onnx")
    with pytest.raises(DtkError, match=f"The runner {name} cannot open"):
        open_runner(name, wrong)
