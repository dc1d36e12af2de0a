"""What is asked of TensorRT 10 and 11, which do nothing without a GPU: a builder that notes it stands in for theirs."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters import precision
from exporters.precision import _arrays, inspected_share, prove
from exporters.settings import BatchRange, EngineSettings
from exporters.tensorrt import build_plan, collecting_logger
from toolkit.core.errors import DtkError
from toolkit.core.progress import silent
from toolkit.runners.tensorrt_api import TensorRT


class Logger:
    ERROR, INTERNAL_ERROR = 1, 2


class Config:
    """A builder's configuration; its timing cache grows by one measurement a build."""

    def __init__(self) -> None:
        self.limits: dict[Any, int] = {}
        self.profiles: list[Any] = []
        self.given = b"not set"
        self.flags = {"TF32"}  # as TensorRT sets it

    def clear_flag(self, flag: str) -> None:
        self.flags.remove(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits[pool] = size

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        assert ignore_mismatch is False, "another GPU's timings are refused, not used"
        self.given = cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.given + b"+timed")


class Builder:
    def __init__(self, plan: bytes | None = b"plan") -> None:
        self.config, self.plan = Config(), plan

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        return self.plan


MODULE: Any = SimpleNamespace(
    __version__="11.4.0",
    ILogger=Logger,
    IProgressMonitor=type("IProgressMonitor", (), {}),
    BuilderFlag=SimpleNamespace(TF32="TF32"),
    ProfilingVerbosity=enum.Enum("ProfilingVerbosity", ["DETAILED"]),
    MemoryPoolType=enum.Enum("MemoryPoolType", ["WORKSPACE"]),
    LayerInformationFormat=enum.Enum("LayerInformationFormat", ["JSON"]),
)
API = TensorRT(MODULE, rtx=False)
INPUTS = [SimpleNamespace(name="sample", shape=(-1, 3, 8, 8)), SimpleNamespace(name="timestep", shape=(-1,))]
NETWORK = SimpleNamespace(num_inputs=2, get_input=INPUTS.__getitem__)


def build(builder: Builder, settings: EngineSettings, timing: Path | None = None) -> bytes:
    batch = BatchRange(min=1, opt=8, max=64)
    return build_plan(API, NETWORK, builder, collecting_logger(API), batch, settings, timing, silent)


def test_the_settings_reach_the_builder() -> None:
    builder = Builder()
    assert build(builder, EngineSettings(level=5, workspace_mib=256)) == b"plan"
    config: Any = builder.config
    assert config.builder_optimization_level == 5
    assert config.limits == {MODULE.MemoryPoolType.WORKSPACE: 256 * 2**20}
    assert config.profiling_verbosity is MODULE.ProfilingVerbosity.DETAILED, "the inspector needs it"
    sample = ((1, 3, 8, 8), (8, 3, 8, 8), (64, 3, 8, 8))
    assert config.profiles == [{"sample": sample, "timestep": ((1,), (8,), (64,))}]
    assert hasattr(config.progress_monitor, "step_complete")


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_rounded_only_on_request(tf32: bool) -> None:
    builder = Builder()
    build(builder, EngineSettings(tf32=tf32))
    assert builder.config.flags == ({"TF32"} if tf32 else set())


def test_timings_are_saved_and_used_by_the_next_build(tmp_path: Path) -> None:
    timing, builders = tmp_path / "timing.cache", [Builder(), Builder()]
    for builder in builders:
        build(builder, EngineSettings(), timing)
    assert [builder.config.given for builder in builders] == [b"", b"+timed"]
    assert timing.read_bytes() == b"+timed+timed"


def test_a_build_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="tensorrt 11.4.0 could not build an engine"):
        build(Builder(plan=None), EngineSettings(), tmp_path / "timing.cache")
    assert not list(tmp_path.iterdir())


def inspector(layers: list[Any]) -> TensorRT:
    """A TensorRT whose inspector says ``layers``, in the form that the documentation of EngineInspector shows."""
    told = json.dumps({"Layers": layers, "Bindings": ["sample", "prediction"]})
    engine = SimpleNamespace(
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda form: told if form else "")
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None)
    return TensorRT(SimpleNamespace(**vars(MODULE), Runtime=lambda logger: runtime), rtx=False)


def convolution(dtype: str, count: int) -> dict[str, Any]:
    return {"LayerType": "CaskConvolution", "Weights": {"Type": dtype, "Count": count}, "Bias": {"Count": 8}}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """An ONNX file of one matrix product."""
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "weights")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("sample", "prediction")]
    node = helper.make_node("MatMul", ["sample", "weights"], ["prediction"])
    onnx.save(
        helper.make_model(helper.make_graph([node], "one", sides[:1], sides[1:], [weights])), tmp_path / "one.onnx"
    )
    return tmp_path / "one.onnx"


def test_the_inspector_tells_the_share_and_how_much_it_tells_of(graph: Path) -> None:
    total = sum(array.size for array in _arrays(graph))
    layers = ["a name alone", {"LayerType": "kgen"}, convolution("Half", total // 2), convolution("Float", total // 4)]
    share, told = inspected_share(inspector(layers), graph, b"plan")
    assert share == pytest.approx(0.5, rel=1e-2) and told == pytest.approx(0.75, rel=1e-2)
    assert inspected_share(inspector([]), graph, b"plan") == (0.0, 0.0)
    assert inspected_share(inspector(layers), graph, b"no plan") == (0.0, 0.0)


@pytest.mark.parametrize(("dtype", "proven"), [("Half", True), ("Float", False)])
def test_with_a_gpu_the_inspector_is_believed(
    graph: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, proven: bool
) -> None:
    layers = [convolution(dtype, sum(array.size for array in _arrays(graph)))]
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    monkeypatch.setattr(precision, "typed_share", lambda api, network: 1.0)
    if proven:
        assert prove(inspector(layers), None, graph, b"plan", "fp16")["inspected_share"] == 1.0
    else:
        with pytest.raises(DtkError, match=r"does not compute in fp16[\s\S]*0.0 % by its inspector"):
            prove(inspector(layers), None, graph, b"plan", "fp16")
