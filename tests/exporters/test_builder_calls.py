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

from exporters import engine_config, engines, precision
from exporters.engine_config import check_bf16, command, profile_shapes
from exporters.precision import _arrays, inspected_share, prove
from exporters.settings import BatchRange, EngineSettings, ExportSettings
from exporters.tensorrt import OverBudgetError, build_plan, collecting_logger, layer_information
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.progress import silent
from toolkit.runners.tensorrt_api import TensorRT

LISTS = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "data").glob("*.json"))}
"""``dir()`` of the real bindings of each version."""


class Logger:
    ERROR, INTERNAL_ERROR = 1, 2


class Config:
    """A builder's configuration; its timing cache grows by one measurement a build.

    It takes no attribute that IBuilderConfig of its version lacks.
    """

    def __init__(self, names: set[str]) -> None:
        self.__dict__.update(names=names, limits={}, profiles=[], targets=[], given=b"not set")
        self.__dict__.update(flags={"TF32"})  # as TensorRT sets it

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.names, f"IBuilderConfig has no {name}"
        self.__dict__[name] = value

    def clear_flag(self, flag: enum.Enum) -> None:
        self.flags.remove(flag.name)

    def set_flag(self, flag: enum.Enum) -> None:
        self.flags.add(flag.name)

    def set_compute_capability(self, target: str, number: int) -> bool:
        self.targets.insert(number, target)
        return True

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        assert ignore_mismatch is False, "another GPU's timings are refused, not used"
        self.__dict__["given"] = cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.given + b"+timed")


class Builder:
    def __init__(self, version: str = "tensorrt-11.4", plan: bytes | None = b"plan") -> None:
        self.config, self.plan = Config(set(LISTS[version]["names"]["IBuilderConfig"])), plan

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        return self.plan


def module(version: str) -> TensorRT:
    """The enumerations of a version, with no member that it lacks."""
    names, kinds = LISTS[version]["names"], ("BuilderFlag", "ProfilingVerbosity", "MemoryPoolType")
    kinds += ("HardwareCompatibilityLevel", "LayerInformationFormat", "ComputeCapability")
    every = {kind: enum.Enum(kind, [n for n in names[kind] if n.isupper()]) for kind in kinds if kind in names}
    listeners = {"ILogger": Logger, "IProgressMonitor": type("IProgressMonitor", (), {})}
    api = SimpleNamespace(__version__=LISTS[version]["version"], **every, **listeners)
    return TensorRT(api, rtx="ComputeCapability" in names)  # type: ignore[arg-type]


API = module("tensorrt-11.4")
MODULE: Any = API.module
BATCH = BatchRange(min=1, opt=8, max=64)
INPUTS = {"sample": {"shape": ["batch", 3, 8, 8]}, "timestep": {"shape": ["batch"]}}


def build(builder: Builder, settings: EngineSettings, timing: Path | None = None, api: TensorRT = API) -> bytes:
    shapes = profile_shapes(INPUTS, BATCH)
    return build_plan(api, None, builder, collecting_logger(api), shapes, settings, timing, silent)


CHANGED: dict[str, Any] = {
    "compute_capability": ("sm89",),
    "level": 5,
    "workspace_mib": 64,
    "build_budget_s": 9.0,
    "tf32": True,
    "hardware_compatible": "ampere",
    "version_compatible": True,
    "weights": "refit",
}


def test_an_engine_depends_on_all_that_it_is_built_from_and_with() -> None:
    """Equal facts are the same engine: whatever changes one has to change them; how many are built changes none."""
    api: Any = SimpleNamespace(package="tensorrt", version="11.1.0")
    described = {"sha256": {"step.onnx": "a1"}, "dtype": "fp32"}

    def facts(description: dict[str, Any] = described, **settings: Any) -> dict[str, Any]:
        return engines.engine_facts(api, description, ExportSettings(**settings))

    assert CHANGED.keys() | {"one_per_shape"} == EngineSettings.model_fields.keys()
    changed = [facts(engine=EngineSettings(**{name: value})) for name, value in CHANGED.items()]
    changed += [facts(described | {"dtype": "bf16"}), facts(described | {"sha256": {"step.onnx": "b2"}})]
    changed += [facts(batch="1:1:8"), engines.engine_facts(api, described, ExportSettings(), {"latents": (4, 8, 8)})]
    changed += [
        engines.engine_facts(SimpleNamespace(package="tensorrt", version="11.2.0"), described, ExportSettings())
    ]
    assert len({json.dumps(one) for one in [facts(), *changed]}) == 1 + len(changed)
    assert facts(engine=EngineSettings(one_per_shape=True)) == facts()


def test_the_settings_reach_the_builder() -> None:
    builder = Builder()
    assert build(builder, EngineSettings(level=5, workspace_mib=256)) == b"plan"
    config: Any = builder.config
    assert config.builder_optimization_level == 5
    assert config.limits == {"WORKSPACE": 256 * 2**20}
    assert config.profiling_verbosity is MODULE.ProfilingVerbosity.DETAILED, "the inspector needs it"
    sample = ((1, 3, 8, 8), (8, 3, 8, 8), (64, 3, 8, 8))
    assert config.profiles == [{"sample": sample, "timestep": ((1,), (8,), (64,))}]
    assert hasattr(config.progress_monitor, "step_complete")


FLAGS: dict[str, tuple[dict[str, Any], set[str], str | None, list[str]]] = {
    # settings; the builder's flags and its level of hardware compatibility; words of trtexec
    "none": ({}, set(), None, ["--noTF32"]),
    "tf32": ({"tf32": True}, {"TF32"}, None, []),
    "refit": ({"weights": "refit"}, {"REFIT"}, None, ["--noTF32", "--refit"]),
    "stripped": ({"weights": "stripped"}, {"STRIP_PLAN", "REFIT_IDENTICAL"}, None, ["--noTF32", "--stripWeights"]),
    "later versions": ({"version_compatible": True}, {"VERSION_COMPATIBLE"}, None, ["--noTF32", "--versionCompatible"]),
    "capability": (
        {"hardware_compatible": "capability"},
        set(),
        "SAME_COMPUTE_CAPABILITY",
        ["--noTF32", "--hardwareCompatibilityLevel=sameComputeCapability"],
    ),
    "ampere": (
        {"hardware_compatible": "ampere"},
        set(),
        "AMPERE_PLUS",
        ["--noTF32", "--hardwareCompatibilityLevel=ampere+"],
    ),
}


@pytest.mark.parametrize("version", LISTS)
@pytest.mark.parametrize("name", FLAGS)
def test_every_version_is_asked_for_what_was_requested_and_trtexec_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    monkeypatch.setattr(engine_config, "has_gpu", lambda: True)
    options, flags, level, words = FLAGS[name]
    api, builder, settings = module(version), Builder(version), EngineSettings(**options)
    if api.rtx and ("version_compatible" in options or "hardware_compatible" in options):
        with pytest.raises(UsageError, match=r"RTX builds no compatible engines[\s\S]*--compute-capability"):
            build(builder, settings, api=api)
        return
    build(builder, settings, api=api)
    chosen = getattr(builder.config, "hardware_compatibility_level", None) if level else None
    assert builder.config.flags == flags and getattr(chosen, "name", None) == level
    told = command(api, profile_shapes(INPUTS, BATCH), settings, onnx="m.onnx", plan="m.plan", timing=None)
    typed = ["--stronglyTyped"] if version.startswith("tensorrt-10") else []
    assert told == [
        "tensorrt_rtx" if api.rtx else "trtexec",
        *("--onnx=m.onnx", "--saveEngine=m.plan", "--skipInference", "--profilingVerbosity=detailed"),
        "--minShapes=sample:1x3x8x8,timestep:1",
        "--optShapes=sample:8x3x8x8,timestep:8",
        "--maxShapes=sample:64x3x8x8,timestep:64",
        "--builderOptimizationLevel=3",
        *typed,
        *words,
    ]


def test_targets_reach_rtx_and_its_tool() -> None:
    api, builder = module("tensorrt-rtx-1.7"), Builder("tensorrt-rtx-1.7")
    settings = EngineSettings(compute_capability=("sm89", "sm120"))
    build(builder, settings, api=api)
    assert [target.name for target in builder.config.targets] == ["SM89", "SM120"]
    assert builder.config.num_compute_capabilities == 2
    told = command(api, {}, settings, onnx="m.onnx", plan="m.plan", timing="t.cache")
    assert told[-2:] == ["--computeCapabilities=89,120", "--timingCacheFile=t.cache"]


def test_an_input_with_dynamic_sides_is_built_for_the_models_own() -> None:
    latents = {"latents": {"shape": ["batch", 4, "height", "width"]}}
    assert profile_shapes(latents, BATCH, {"latents": (4, 8, 8)})["latents"][2] == (64, 4, 8, 8)


@pytest.mark.parametrize(
    ("here", "targets", "refused"),
    [
        ("sm75", (), "sm75"),
        ("sm80", (), None),
        (None, (), None),
        (None, ("sm89", "sm75"), "sm75"),
        ("sm75", ("sm120",), None),
    ],
)
def test_bfloat16_is_refused_for_a_t4(
    monkeypatch: pytest.MonkeyPatch, here: str | None, targets: tuple[str, ...], refused: str | None
) -> None:
    monkeypatch.setattr(engine_config, "gpu_facts", lambda: {"gpu": "Tesla T4", "gpu_capability": here})
    if refused is None:
        check_bf16(EngineSettings(compute_capability=targets))
    else:
        with pytest.raises(UsageError, match=rf"{refused} has no bfloat16[\s\S]*sm80 or later[\s\S]*--dtype fp16"):
            check_bf16(EngineSettings(compute_capability=targets))


def test_a_build_over_its_budget_begins_again_at_a_lower_level_and_the_level_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder takes ten seconds for each level and looks up every second."""
    clock, levels = [0.0], []

    class Slow(Builder):
        def create_builder_config(self) -> Config:
            self.config = Config(self.config.names)
            return self.config

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            levels.append(config.builder_optimization_level)
            config.progress_monitor.phase_start("all", None, 10 * levels[-1])
            for step in range(10 * levels[-1]):
                clock[0] += 1.0
                if not config.progress_monitor.step_complete("all", step):
                    return None
            return b"plan"

    monkeypatch.setattr("exporters.tensorrt.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(engines, "parse", lambda *args: None)
    monkeypatch.setattr(engines, "timings", lambda api: tmp_path / "timing.cache")
    api = TensorRT(SimpleNamespace(**vars(MODULE), Builder=lambda logger: Slow()), rtx=False)  # type: ignore[arg-type]

    def built(budget_s: float | None) -> dict[str, Any]:
        engine = EngineSettings(level=3, build_budget_s=budget_s)
        settings = ExportSettings.model_validate({"batch": "1:8:64", "engine": engine})
        return engines._build(api, tmp_path / "m.onnx", {"inputs": INPUTS}, settings, {}, silent)[1]

    assert (built(None)["level"], levels) == (3, [3])
    assert (built(25.0)["level"], levels) == (2, [3, 3, 2])
    assert built(11.0)["level"] == 1
    assert built(0.5)["level"] == 0


def test_an_engine_that_no_level_builds_in_time_is_refused_in_words() -> None:
    class Never(Builder):
        def build_serialized_network(self, network: Any, config: Any) -> None:
            while config.progress_monitor.step_complete("all", 0):
                pass

    with pytest.raises(OverBudgetError, match=r"longer to build than 0.01 s[\s\S]*--build-budget-s"):
        build(Never(), EngineSettings(level=0, build_budget_s=0.01))


def test_timings_are_saved_and_used_by_the_next_build(tmp_path: Path) -> None:
    timing, builders = tmp_path / "timing.cache", [Builder(), Builder()]
    for builder in builders:
        build(builder, EngineSettings(), timing)
    assert [builder.config.given for builder in builders] == [b"", b"+timed"]
    assert timing.read_bytes() == b"+timed+timed"


def test_a_build_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match=r"tensorrt 11.4.0.\S* could not build an engine"):
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
    told = layer_information(inspector(layers), b"plan")
    assert told == layers
    share, covered = inspected_share(told, graph)
    assert share == pytest.approx(0.5, rel=1e-2) and covered == pytest.approx(0.75, rel=1e-2)
    assert inspected_share([], graph) == (0.0, 0.0)
    assert layer_information(inspector(layers), b"no plan") == []


@pytest.mark.parametrize(("dtype", "proven"), [("Half", True), ("Float", False)])
def test_with_a_gpu_the_inspector_is_believed(
    graph: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, proven: bool
) -> None:
    layers = [convolution(dtype, sum(array.size for array in _arrays(graph)))]
    monkeypatch.setattr(precision, "typed_share", lambda api, network: 1.0)
    if proven:
        assert prove(API, None, graph, b"plan", "fp16", layers=layers)["inspected_share"] == 1.0
    else:
        with pytest.raises(DtkError, match=r"does not compute in fp16[\s\S]*0.0 % by its inspector"):
            prove(API, None, graph, b"plan", "fp16", layers=layers)
