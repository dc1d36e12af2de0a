"""Plans are judged before they are loaded; what they compute is tested if there is a GPU."""

from __future__ import annotations

from contextlib import closing
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
from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256, write_json
from toolkit.core.progress import silent
from toolkit.models.folder import load_denoiser
from toolkit.runners.tensorrt import TensorRTRunner, check_plan
from toolkit.runners.tensorrt_api import TensorRT, elsewhere, gpu_facts, has_gpu, load_tensorrt

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


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


class FakeTensorRT(SimpleNamespace):
    """A TensorRT whose plan is opened, refitted and given a context as ``gives`` says."""

    def __init__(self, gives: dict[str, Any]) -> None:
        self.refits: list[str] = []
        self.runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: self.engine)
        self.engine = SimpleNamespace(
            create_execution_context=lambda: gives.get("context"),
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
            Refitter=lambda engine, logger: refitter,
            OnnxParserRefitter=lambda refitter, logger: parser,
        )


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path, gives: dict[str, Any], **facts: Any) -> tuple[Any, Any]:
    module = FakeTensorRT(gives)
    api = TensorRT(module, rtx=True)  # type: ignore[arg-type]
    monkeypatch.setattr(TensorRT, "version", "1")
    path = described_plan(folder, api, **facts)
    runner = TensorRTRunner.__new__(TensorRTRunner)
    runner._open(api, path, check_plan(path, api), None)
    return runner, module


def test_a_plan_that_gets_no_memory_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DtkError, match="tensorrt_rtx 1 refuses .* on this GPU"):
        opened(monkeypatch, tmp_path, {"context": None})


def test_a_plan_without_weights_gets_those_of_the_runs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, facts in {"stripped": {"weights": "stripped"}, "fixed": {}}.items():
        (tmp_path / name / "tensorrt").mkdir(parents=True)
        runner, module = opened(monkeypatch, tmp_path / name / "tensorrt", {"context": "context"}, **facts)
        assert (runner._context, runner._output) == ("context", "images")
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

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes.append((name, shape))
        return shape[0] <= 4

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses.append((name, address))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[0][1]


def test_steps_of_a_loop_are_bound_once_and_copied_never(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, context = TensorRTRunner.__new__(TensorRTRunner), Context()
    runner.device, runner._batch, runner._context, runner._shapes, runner._addresses = "cpu", "1:2:4", context, {}, {}
    runner._output = "prediction"
    monkeypatch.setattr(runner, "_enqueue", lambda tensors: enqueued.append([t.data_ptr() for t in tensors]))
    enqueued: list[list[int]] = []
    sample, timestep = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    for _ in range(5):
        runner(sample, timestep)
    assert context.shapes == [("sample", (2, 3, 8, 8)), ("timestep", (2,))]
    assert [name for name, _ in context.addresses if name != "prediction"] == ["sample", "timestep"]
    assert all(pointers[:2] == [sample.data_ptr(), timestep.data_ptr()] for pointers in enqueued)
    with pytest.raises(DtkError, match="does not take a batch of 5"):
        runner(torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64))
