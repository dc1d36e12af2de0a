"""Times of nodes as times of parts: whose a node is, in real ONNX Runtime and in what a profiler may say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exporters.onnx import export_onnx
from profiles import node_parts
from profiles.node_parts import BORDERS, LEAST_CERTAIN, by_part, compare_node_parts, places_of
from profiles.settings import Rounds
from tests.exported import specs_of
from tests.tiny import TWO_LEVELS, tiny_folder
from toolkit.adapters.inputs import example_inputs
from toolkit.models.build import load_denoiser
from toolkit.runners.base import Times, open_node_times, precision_options
from toolkit.runners.onnxruntime import OnnxRuntimeNodes, calls_of
from toolkit.runners.openvino import OpenVINORunner
from toolkit.runners.tensorrt import TensorRTNodes, TensorRTRunner

PLACES = {"node_conv2d": "conv_in", "conv2d": "conv_in", "node_conv2d_1": "down_blocks.0", "conv2d_1": "down_blocks.0"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("node_conv2d_1", "down_blocks.0"),
        ("conv2d_1_nchwc", "down_blocks.0"),
        ("node_conv2d_1/QuickGeluFusion/", "down_blocks.0"),
        ("{ForeignNode[node_conv2d_1...node_add_7]}", "down_blocks.0"),
        ("node_conv2d_1 + node_conv2d", "down_blocks.0"),
        ("ReorderOutput_token_12", "conv_in"),
        ("node_conv2d_10", "conv_in"),
    ],
)
def test_a_fused_node_is_known_by_a_name_it_kept_and_one_without_goes_with_the_part_after(name: str, part: str) -> None:
    assert by_part([(name, 2.0), ("node_conv2d", 1.0)], PLACES)[0].get(part) == (3.0 if part == "conv_in" else 2.0)


def test_what_runs_after_every_part_is_of_the_borders() -> None:
    assert by_part([("node_conv2d", 1.0), ("Cast_1", 0.5)], PLACES)[0] == {BORDERS: 0.5, "conv_in": 1.0}


@pytest.mark.parametrize(
    ("name", "certain"),
    [
        ("node_conv2d_1", 1.0),
        ("node_conv2d_1 + conv2d_1", 1.0),
        ("{ForeignNode[node_conv2d...node_conv2d_1]}", 0.5),
        ("norm piece between two parts", 0.5),
    ],
)
def test_what_several_parts_share_is_certain_of_none(name: str, certain: float) -> None:
    times = [("node_conv2d", 1.0), ("piece between two of one part", 1.0), ("node_conv2d", 1.0)]
    last = [(name, 4.0), ("node_conv2d_1", 1.0)]
    assert by_part([*times, *last], PLACES)[1] == certain


def test_nothing_is_said_of_parts_where_fused_nodes_hide_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node of TensorRT may be a whole network; it was credited to the first part that its name names."""
    monkeypatch.setattr(node_parts, "places_of", lambda onnx: PLACES)
    monkeypatch.setattr(Nodes, "FIRST", "{ForeignNode[node_conv2d...node_conv2d_1]}")
    files = {"dense": Path("a"), "compressed": Path("b")}
    found = compare_node_parts(Nodes(4.0), Nodes(2.0), files, {}, "cpu", Rounds(seconds=1e-9, least=6))
    assert (found["parts"], found["no_faster"]) == ({}, [])
    assert found["certain_share"] == pytest.approx(1 / 5)


def test_a_trace_is_cut_into_its_calls() -> None:
    def event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, Any]:
        return {"cat": cat, "name": name, "ts": ts, "dur": dur}

    first = [event("model_run", 100, 50, "Session"), event("b_kernel_time", 130, 9), event("a_kernel_time", 110, 4)]
    second = [event("model_run", 200, 50, "Session"), event("a_kernel_time", 210, 5), event("a_fence_before", 209, 1)]
    outside = [event("session_initialization", 0, 90, "Session"), event("a_kernel_time", 160, 7)]
    assert calls_of(second + first + outside) == [[("a", 0.004), ("b", 0.009)], [("a", 0.005)]]


class Nodes:
    """A runner whose one part takes as many ms as it was made with, each call."""

    FIRST = "node_conv2d"

    def __init__(self, ms: float) -> None:
        self.ms, self.calls = ms, list[Times]()

    def __call__(self, **inputs: torch.Tensor) -> None:
        self.calls.append([(self.FIRST, self.ms), ("node_conv2d_1", 1.0)])

    def close(self) -> list[Times]:
        return self.calls


def test_parts_that_gained_nothing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_parts, "places_of", lambda onnx: PLACES)
    files = {"dense": Path("a"), "compressed": Path("b")}
    found = compare_node_parts(Nodes(4.0), Nodes(2.0), files, {}, "cpu", Rounds(seconds=1e-9, least=6))
    assert found["rounds"] == 6 and found["no_faster"] == ["down_blocks.0"]
    assert found["parts"]["conv_in"]["speedup"]["value"] == 2.0


def test_the_profiler_computes_in_the_precision_that_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(OpenVINORunner, "__init__", lambda runner, path, *, dtype, profiling: opened.append(dtype))
    open_node_times("openvino", Path("a.onnx"), "cpu", **precision_options("openvino", "bf16"))
    assert opened == ["bf16"]


def test_a_runner_without_a_profiler_of_nodes_has_none() -> None:
    assert open_node_times("torch", Path("model"), "cpu") is None


@pytest.fixture
def real(tmp_path: Path) -> tuple[Path, Times]:
    """A file, and each of its nodes' least time of ten calls: another process may hold up any one of them."""
    model = tiny_folder(tmp_path / "model", **TWO_LEVELS)
    export_onnx(load_denoiser(model), specs_of(model), tmp_path / "model.onnx")
    nodes = open_node_times("onnxruntime", tmp_path / "model.onnx", "cpu")
    assert isinstance(nodes, OnnxRuntimeNodes)
    for _ in range(10):
        nodes(**example_inputs(specs_of(model), 2))
    of_each_node = zip(*nodes.close(), strict=True)
    return tmp_path / "model.onnx", [(times[0][0], min(ms for _, ms in times)) for times in of_each_node]


@pytest.mark.slow
def test_onnxruntime_tells_where_the_time_of_a_real_network_goes(real: tuple[Path, Times]) -> None:
    path, times = real
    places = places_of(path)
    named = [name for name, _ in times if node_parts._owners(name, places)]
    assert len(named) > 0.2 * len(times), "the rest are mostly norms in pieces"
    found, certain = by_part(times, places)
    assert certain >= LEAST_CERTAIN
    assert {"conv_in", "conv_out", "mid_block", "down_blocks.0", "down_blocks.1", "up_blocks.1"} <= set(found)
    assert sum(found.values()) == pytest.approx(sum(ms for _, ms in times))


def test_tensorrt_s_profiler_collects_each_call_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(profiler=None)

    def call(runner: TensorRTRunner, **inputs: torch.Tensor) -> None:
        context.profiler.report_layer_time("node_conv2d", 0.25)

    def opened(runner: TensorRTRunner, path: Path, *, device: str) -> None:
        runner.device, runner._binding = device, SimpleNamespace(context=context)
        runner._api = SimpleNamespace(module=SimpleNamespace(IProfiler=type("IProfiler", (), {})))

    monkeypatch.setattr(TensorRTRunner, "__init__", opened)
    monkeypatch.setattr(TensorRTRunner, "__call__", call)
    monkeypatch.setattr(TensorRTRunner, "close", lambda runner: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    nodes = TensorRTNodes(Path("dense.plan"), device="cuda")
    nodes()
    nodes()
    assert nodes.close() == [[("node_conv2d", 0.25)]] * 2
