"""Plans are judged before they are loaded; what they compute is tested if there is a GPU."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
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
from toolkit.runners.tensorrt_api import TensorRT, gpu_facts, has_gpu, load_tensorrt

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


def described_plan(folder: Path, api: TensorRT, **facts: Any) -> Path:
    path = folder / "engine.plan"
    path.write_bytes(b"a plan")
    here = {"builder": api.package, "version": api.version, **gpu_facts(), "batch": "1:2:4"}
    write_json(path.with_suffix(".json"), {"sha256": file_sha256(path), "facts": here | facts})
    return path


def test_a_plan_of_this_place_is_taken(tmp_path: Path) -> None:
    api = load_tensorrt()
    assert check_plan(described_plan(tmp_path, api), api) == "1:2:4"


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
