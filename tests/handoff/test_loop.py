"""The loop on a graph whose result is known in closed form: x <- a x + b noise + label."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper

from tests.handoff.fake_gpu import PLAN, VERSION, Gpu
from toolkit.core.noise import sample_noise
from toolkit.handoff.dtk_server.choice import Stepper
from toolkit.handoff.dtk_server.loop import Loop
from toolkit.handoff.dtk_server.onnxruntime_stepper import OnnxRuntimeStepper
from toolkit.handoff.dtk_server.openvino_graph import OpenVINOGraph, OpenVINOStepper
from toolkit.handoff.dtk_server.refusal import UnfitError
from toolkit.handoff.dtk_server.request import Wish
from toolkit.handoff.dtk_server.schedule import Schedule, Trajectory
from toolkit.handoff.dtk_server.tensorrt_stepper import TensorRTStepper

SHAPE, BATCH = (2, 3, 4), 5
SIGMA = 0.25


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coefficients' columns are a and b; the timestep is multiplied by zero, so that it is an input in use."""
    image = ["batch", *SHAPE]
    nodes = [
        helper.make_node("Split", ["coefficients"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Unsqueeze", ["a", "axes"], ["a4"]),
        helper.make_node("Unsqueeze", ["b", "axes"], ["b4"]),
        helper.make_node("Mul", ["sample", "a4"], ["ax"]),
        helper.make_node("Mul", ["noise", "b4"], ["bn"]),
        helper.make_node("Add", ["ax", "bn"], ["moved"]),
        helper.make_node("Add", ["class_labels", "timestep"], ["label"]),
        helper.make_node("Cast", ["label"], ["label_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["label_float", "all_axes"], ["label4"]),
        helper.make_node("Add", ["moved", "label4"], ["previous"]),
    ]
    inputs = [
        helper.make_tensor_value_info("sample", TensorProto.FLOAT, image),
        helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, image),
        helper.make_tensor_value_info("class_labels", TensorProto.INT64, ["batch"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("all_axes", TensorProto.INT64, [3], [1, 2, 3]),
    ]
    output = helper.make_tensor_value_info("previous", TensorProto.FLOAT, image)
    made = helper.make_model(
        helper.make_graph(nodes, "linear", inputs, [output], constants), opset_imports=[helper.make_opsetid("", 21)]
    )
    made.ir_version = 10
    path = tmp_path_factory.mktemp("loop") / "linear.onnx"
    onnx.save(made, path)
    return path


def schedule() -> Schedule:
    """The loop of n steps multiplies by 1/2 and adds noise of 1/10; its timesteps are 0, where labels do the rest."""
    rows = {n: np.tile(np.array([0.5, 0.1], np.float32), (n, 1)) for n in range(1, 8)}
    return Schedule(SIGMA, {n: Trajectory(np.zeros(n, np.int64), row) for n, row in rows.items()})


def onnx_stepper(graph: Path, monkeypatch: pytest.MonkeyPatch) -> Stepper:
    return OnnxRuntimeStepper(graph, device="cpu", device_id=0, threads=1, image=SHAPE, batch=BATCH)


def openvino_stepper(graph: Path, monkeypatch: pytest.MonkeyPatch) -> Stepper:
    return OpenVINOStepper(graph, threads=1, dtype="fp32", image=SHAPE, batch=BATCH)


def tensorrt_stepper(graph: Path, monkeypatch: pytest.MonkeyPatch) -> Stepper:
    Gpu().install(monkeypatch)
    (graph.parent / "linear.plan").write_bytes(PLAN)
    stored = {"package": "tensorrt_rtx", "version": VERSION, "compute_capability": ["sm89"]}
    return TensorRTStepper(graph.parent / "linear.plan", stored, device_id=0, image=SHAPE, batch=BATCH, weights=graph)


@pytest.fixture(params=[onnx_stepper, openvino_stepper, tensorrt_stepper])
def loop(request: pytest.FixtureRequest, graph: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(request.param(graph, monkeypatch), schedule(), SHAPE, sample_noise)


def wish(seed: int, steps: int, label: int = 0) -> Wish:
    return Wish(seed, steps, {"class_labels": np.array(label, np.int64)})


def by_hand(asked: Wish) -> np.ndarray:
    x = SIGMA * sample_noise([asked.seed], 0, SHAPE)[0]
    for step in range(1, asked.steps + 1):
        noise = sample_noise([asked.seed], step, SHAPE)[0]
        x = 0.5 * x + 0.1 * noise + float(asked.conditioning["class_labels"])
    return np.clip(x / 2 + 0.5, 0, 1)


MIXES = [
    [wish(0, 1)],
    [wish(1, 3), wish(2, 3)],
    [wish(1, 1), wish(2, 7), wish(3, 4), wish(1, 7), wish(2**63, 1)],
    [wish(5, 2, label=1), wish(5, 2, label=-1), wish(5, 3)],
]


@pytest.mark.parametrize("mix", MIXES)
def test_every_image_is_its_own_whatever_its_neighbours(loop: Loop, mix: list[Wish]) -> None:
    expected = np.stack([by_hand(asked) for asked in mix])
    assert np.abs(loop.sample(mix) - expected).max() < 1e-6


def test_a_batch_leaves_nothing_behind(loop: Loop) -> None:
    for mix in [MIXES[2], MIXES[0], MIXES[3], MIXES[2]]:
        assert np.abs(loop.sample(mix) - np.stack([by_hand(asked) for asked in mix])).max() < 1e-6


def test_an_absent_provider_is_said(graph: Path) -> None:
    with pytest.raises(UnfitError, match="no CUDAExecutionProvider, only"):
        OnnxRuntimeStepper(graph, device="cuda", device_id=0, threads=1, image=SHAPE, batch=BATCH)


def test_a_file_that_is_no_graph_is_said(tmp_path: Path) -> None:
    (tmp_path / "step.onnx").write_bytes(b"not a graph")
    with pytest.raises(UnfitError, match=r"cannot load step\.onnx"):
        OnnxRuntimeStepper(tmp_path / "step.onnx", device="cpu", device_id=0, threads=1, image=SHAPE, batch=BATCH)
    with pytest.raises(UnfitError, match=r"OpenVINO .* cannot load step\.onnx"):
        OpenVINOGraph(tmp_path / "step.onnx", threads=1)


def test_openvino_computes_in_bfloat16_only_where_the_processor_does(graph: Path) -> None:
    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with contextlib.nullcontext() if capable else pytest.raises(UnfitError, match="neither AMX nor AVX512-BF16"):
        OpenVINOGraph(graph, threads=1, dtype="bf16")
