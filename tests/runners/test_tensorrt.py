"""Plans are judged before they are loaded; what they compute is tested if there is a GPU."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exporters.engines import write_engine
from exporters.onnx import describe
from exporters.settings import ExportSettings
from tests.exported import exported, specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.core.files import file_sha256, write_json
from toolkit.core.progress import silent
from toolkit.models.build import load_denoiser
from toolkit.runners.cuda_graph import Replay, Work
from toolkit.runners.tensorrt import TensorRTRunner, check_plan
from toolkit.runners.tensorrt_api import TensorRT, driver_version, elsewhere, gpu_facts, has_gpu, load_tensorrt
from toolkit.runners.tensorrt_binding import Binding
from toolkit.runners.tensorrt_graph import TensorRTGraphRunner

try:
    load_tensorrt()
except MissingToolError:
    pytest.skip("no TensorRT can work here", allow_module_level=True)


def described_plan(folder: Path, api: TensorRT, **facts: Any) -> Path:
    path = folder / "engine.plan"
    path.write_bytes(b"a plan")
    here = {"builder": api.package, "version": api.version, **gpu_facts(), "batch": "1:2:4"}
    write_json(path.with_suffix(".json"), {"sha256": file_sha256(path), "facts": here | facts})
    return path


def test_a_plan_of_this_place_is_taken(tmp_path: Path) -> None:
    api = load_tensorrt()
    assert check_plan(described_plan(tmp_path, api), api)["batch"] == "1:2:4"


def test_a_damaged_plan_is_never_loaded(tmp_path: Path) -> None:
    api = load_tensorrt()
    path = described_plan(tmp_path, api)
    path.write_bytes(b"a plot")
    with pytest.raises(DtkError, match="damaged or was changed"):
        check_plan(path, api)


@pytest.mark.parametrize("fact", ["version", "builder"])
def test_a_plan_of_another_builder_is_refused(tmp_path: Path, fact: str) -> None:
    api = load_tensorrt()
    with pytest.raises(DtkError, match=rf"was built elsewhere[\s\S]*{fact} another \(here "):
        check_plan(described_plan(tmp_path, api, **{fact: "another"}), api)


def test_a_plan_of_another_gpu_is_refused_where_plans_are_of_one_gpu(tmp_path: Path) -> None:
    api = TensorRT(load_tensorrt().module, rtx=False)
    with pytest.raises(DtkError, match=r"built elsewhere[\s\S]*gpu_capability sm90"):
        check_plan(described_plan(tmp_path, api, gpu="NVIDIA H200", gpu_capability="sm90"), api)


L4 = {"builder": "tensorrt", "version": "10.14.1", "gpu": "NVIDIA L4", "gpu_capability": "sm89"}
PLACES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    # what the engine was built as, where it shall run, and why it does not
    "the same": ({}, {}, None),
    "an updated driver": ({"driver": 13000}, {"driver": 13020}, None),
    "another model of the same capability": ({}, {"gpu": "NVIDIA GeForce RTX 4090"}, "gpu NVIDIA L4 (here NVIDIA GeF"),
    "built for the capability": ({"hardware_compatible": "capability"}, {"gpu": "NVIDIA GeForce RTX 4090"}, None),
    "another capability": ({"hardware_compatible": "capability"}, {"gpu_capability": "sm90"}, "gpu_capability sm89"),
    "from Ampere on": ({"hardware_compatible": "ampere"}, {"gpu": "NVIDIA H200", "gpu_capability": "sm90"}, None),
    "a later version": ({}, {"version": "10.15.1"}, "version 10.14.1 (here 10.15.1)"),
    "built for later ones": ({"version_compatible": True}, {"version": "10.15.1"}, None),
    "an earlier one": ({"version_compatible": True}, {"version": "10.13.3"}, "or a later one of the same major"),
    "the next major": ({"version_compatible": True}, {"version": "11.4.0"}, "or a later one of the same major"),
    "another builder": ({"hardware_compatible": "ampere"}, {"builder": "tensorrt_rtx"}, "builder tensorrt (here"),
    "any GPU in RTX": (
        {"builder": "tensorrt_rtx", "gpu": None, "gpu_capability": None},
        {"builder": "tensorrt_rtx"},
        None,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_an_engine_runs(place: str) -> None:
    built, here, reason = PLACES[place]
    found = elsewhere(L4 | built, L4 | here)
    assert (found == []) if reason is None else (len(found) == 1 and reason in found[0])


def test_an_engine_is_described_with_the_drivers_version_or_without(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(nvmlInit=lambda: None, nvmlSystemGetCudaDriverVersion_v2=lambda: 13020)
    for module, version in ((found, 13020), (None, None), (SimpleNamespace(nvmlInit=lambda: 1 / 0), None)):
        monkeypatch.setitem(sys.modules, "pynvml", module)  # None: its import fails
        assert driver_version() == version


class FakeTensorRT(SimpleNamespace):
    """A TensorRT whose plan is opened, refitted and given a context as ``gives`` says."""

    def __init__(self, gives: dict[str, Any]) -> None:
        self.refits: list[str] = []
        self.runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: self.engine)
        self.engine = SimpleNamespace(
            create_runtime_config=SimpleNamespace,
            create_execution_context=lambda runtime_config: gives.get("context"),
            num_optimization_profiles=1,
            get_tensor_profile_shape=lambda name, index: [(1, 3, 8, 8)] * 3,
            num_io_tensors=2,
            get_tensor_name=["sample", "images"].__getitem__,
            get_tensor_mode={"sample": 1, "images": 2}.__getitem__,
        )
        refitter = SimpleNamespace(refit_cuda_engine=lambda: True, get_missing_weights=lambda: ["conv_in"])
        parser = SimpleNamespace(refit_from_file=lambda onnx: self.refits.append(onnx) or gives.get("fits", True))
        logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
        super().__init__(
            Logger=logger,
            Runtime=lambda logger: self.runtime,
            TensorIOMode=SimpleNamespace(OUTPUT=2),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
            Refitter=lambda engine, logger: refitter,
            OnnxParserRefitter=lambda refitter, logger: parser,
        )


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path, gives: dict[str, Any], **facts: Any) -> tuple[Any, Any]:
    module = FakeTensorRT(gives)
    api = TensorRT(module, rtx=True)  # type: ignore[arg-type]
    monkeypatch.setattr(TensorRT, "version", "1")
    path = described_plan(folder, api, **facts)
    runner = TensorRTRunner.__new__(TensorRTRunner)
    runner.device = "cpu"
    runner._open(api, path, check_plan(path, api), None)
    return runner, module


def test_a_plan_that_gets_no_memory_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DtkError, match="tensorrt_rtx 1 refuses .* on this GPU"):
        opened(monkeypatch, tmp_path, {"context": None})


def test_a_plan_without_weights_gets_those_of_the_runs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, facts in {"stripped": {"weights": "stripped"}, "fixed": {}}.items():
        (tmp_path / name / "tensorrt").mkdir(parents=True)
        runner, module = opened(monkeypatch, tmp_path / name / "tensorrt", {"context": "context"}, **facts)
        assert (runner._binding.context, runner._binding.output) == ("context", "images")
        assert module.refits == ([str(tmp_path / name / "export" / "onnx" / "engine.onnx")] if facts else [])
    (tmp_path / "changed").mkdir()
    with pytest.raises(DtkError, match=r"do not fit the engine[\s\S]*conv_in"):
        opened(monkeypatch, tmp_path / "changed", {"context": "context", "fits": False}, weights="stripped")


def test_a_version_compatible_plan_may_bring_its_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for compatible in (True, False):
        _, module = opened(monkeypatch, tmp_path, {"context": "context"}, version_compatible=compatible)
        assert module.runtime.engine_host_code_allowed is compatible


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")
def test_an_engine_computes_what_torch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    onnx, plan = exported("fp16", 21), tmp_path / "engine.plan"
    settings = ExportSettings(dtype="fp16", batch="1:2:4")  # type: ignore[arg-type]
    write_engine(load_tensorrt(), onnx, describe(onnx) | {"dtype": "fp16"}, plan, settings, silent)
    reference = load_denoiser(tiny_model()).cuda()
    with closing(TensorRTRunner(plan)) as runner:
        for batch in (1, 3, 4):
            inputs = example_inputs(specs_of(tiny_model()), batch, device="cuda")
            with torch.no_grad():
                expected = reference(**inputs).sample
            assert ((runner(**inputs) - expected).abs().max() / expected.abs().max()).item() < 1e-2
        with pytest.raises(DtkError, match=r"does not take a batch of 5[\s\S]*1:2:4"):
            runner(**example_inputs(specs_of(tiny_model()), 5, device="cuda"))


class Context:
    """An execution context that counts what is bound."""

    def __init__(self) -> None:
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        self.addresses: list[tuple[str, int]] = []
        self.profiles: list[int] = []
        self.launches: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes.append((name, shape))
        return shape[0] <= 4

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses.append((name, address))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return next(shape for name, shape in reversed(self.shapes) if name == "sample")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profiles.append(profile_index)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.launches.append(stream_handle)
        return True


STREAM = SimpleNamespace(cuda_stream=7)


def feed(batch: int) -> dict[str, torch.Tensor]:
    return {"sample": torch.zeros(batch, 3, 8, 8), "timestep": torch.zeros(batch, dtype=torch.int64)}


def test_steps_of_a_loop_are_bound_once_and_copied_never() -> None:
    binding, given = Binding(context := Context(), "prediction", [], "1:2:4", "cpu"), feed(2)
    for _ in range(5):
        binding.enqueue(given, STREAM)
    assert context.shapes == [("sample", (2, 3, 8, 8)), ("timestep", (2,))]
    bound = {name: address for name, address in context.addresses if name != "prediction"}
    assert bound == {name: tensor.data_ptr() for name, tensor in given.items()}
    assert len([name for name, _ in context.addresses if name != "prediction"]) == 2
    assert (context.launches, context.profiles) == ([7] * 5, [])
    with pytest.raises(DtkError, match="does not take a batch of 5"):
        binding.enqueue(feed(5), STREAM)


def test_an_engine_of_several_profiles_computes_each_batch_in_one_that_takes_it() -> None:
    binding = Binding(context := Context(), "prediction", [(1, 1), (2, 4), (2, 8)], "1:2:4", "cpu")
    for batch in (1, 1, 2, 4, 1):
        binding.enqueue(feed(batch), STREAM)
    assert context.profiles == [1, 0]
    assert [shape[0] for name, shape in context.shapes if name == "sample"] == [1, 2, 4, 1]


class Engine:
    """What the runners ask of TensorRT 10, 11 and RTX, by the names and arguments these have."""

    num_optimization_profiles, device_memory_size_v2, num_io_tensors = 1, 1000, 3

    def get_tensor_name(self, index: int) -> str:
        return ("sample", "timestep", "prediction")[index]

    def get_tensor_mode(self, name: str) -> int:
        return 2 if name == "prediction" else 1

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.configs: list[SimpleNamespace] = []

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="lazy")

    def create_execution_context(self, runtime_config: SimpleNamespace | None = None) -> Context:
        self.configs += [runtime_config] if runtime_config else []
        self.contexts.append(Context())
        return self.contexts[-1]


@pytest.fixture(params=[False, True], ids=["TensorRT", "RTX"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine at ``tmp_path/engine.plan`` in a TensorRT and a torch that have a GPU."""
    engine = Engine()
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    strategy = SimpleNamespace(EAGER="eager")
    trt = SimpleNamespace(
        TensorIOMode=SimpleNamespace(OUTPUT=2),
        Runtime=lambda logger: runtime,
        Logger=logger,
        DynamicShapesKernelSpecializationStrategy=strategy,
        __version__="11.4",
    )
    api = TensorRT(trt, rtx=request.param)  # type: ignore[arg-type]
    monkeypatch.setattr("toolkit.runners.tensorrt.load_tensorrt", lambda: api)
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    monkeypatch.setattr("torch.cuda.Stream", lambda device: STREAM)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: STREAM)
    described_plan(tmp_path, api)
    return engine


def test_one_graph_a_shape_each_with_a_context_of_its_own(engine: Engine, tmp_path: Path) -> None:
    captures = []

    def capture(work: Work, device: str) -> tuple[torch.Tensor, Replay]:
        captures.append(work())
        return captures[-1], lambda: captures[-1].add_(1)

    runner = TensorRTGraphRunner(tmp_path / "engine.plan", device="cpu", capture=capture)
    own = len(engine.contexts)
    for batch in (2, 3, 2, 3):
        runner(**feed(batch))
    assert [len(one) for one in captures] == [2, 3]
    assert [[shape[0] for name, shape in one.shapes if name == "sample"] for one in engine.contexts[own:]] == [[2], [3]]
    runner.uncaptured(**feed(2))
    assert len(engine.contexts) == own + 3, "a loop's graph shares no memory with a call's"
    assert runner.device_bytes == 1000 * len(engine.contexts) + len(b"a plan")


def test_rtx_compiles_its_kernels_before_it_computes(engine: Engine, tmp_path: Path) -> None:
    """Else it does so in the background, and what is timed is what it computes with meanwhile."""
    runner = TensorRTRunner(tmp_path / "engine.plan", device="cpu")
    assert [one.dynamic_shapes_kernel_specialization_strategy for one in engine.configs] == ["eager"] * runner._api.rtx


def test_a_context_that_cannot_be_made_is_said(engine: Engine, tmp_path: Path) -> None:
    engine.create_execution_context = lambda *config: None  # type: ignore[assignment, method-assign]
    with pytest.raises(DtkError, match=r"refuses .*engine\.plan on this GPU"):
        TensorRTRunner(tmp_path / "engine.plan", device="cpu")


def test_a_plan_is_held_against_the_gpu_it_is_to_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs, the second."""
    properties = {"cuda:1": SimpleNamespace(name="L4", major=8, minor=9)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device])
    assert gpu_facts("cuda:1") == {"gpu": "L4", "gpu_capability": "sm89"}
