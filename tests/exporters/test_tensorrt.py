"""Real engines, built by TensorRT for RTX without a GPU: they parse, are typed as requested, and are proven to be."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from exporters import engines
from exporters.engine_config import profile_shapes
from exporters.onnx import describe
from exporters.precision import prove, stored_share, typed_share
from exporters.settings import BatchRange, EngineSettings, ExportSettings
from exporters.tensorrt import build_plan, collecting_logger, parse, progress_monitor
from tests.exported import exported
from toolkit.core.errors import DtkError, MissingToolError, UsageError
from toolkit.core.progress import Progress, silent
from toolkit.runners import tensorrt_api
from toolkit.runners.tensorrt_api import TensorRT, load_tensorrt

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
BATCH = BatchRange(min=1, opt=2, max=4)


@pytest.fixture(scope="module")
def api() -> TensorRT:
    return load_tensorrt()


def built(
    api: TensorRT, path: Path, settings: EngineSettings | None = None, progress: Progress = silent
) -> tuple[Any, bytes]:
    logger = collecting_logger(api)
    builder = api.module.Builder(logger)
    network = parse(api, path, builder, logger)
    shapes = profile_shapes(describe(path)["inputs"], BATCH)
    plan = build_plan(api, network, builder, logger, shapes, settings or EngineSettings(), None, progress)
    return network, plan


@pytest.mark.slow
@pytest.mark.parametrize("targets", [(), ("sm75",), ("sm89", "sm120")])
def test_a_half_precision_engine_is_built_and_proven(api: TensorRT, targets: tuple[str, ...]) -> None:
    path = exported("fp16", 21)
    network, plan = built(api, path, EngineSettings(compute_capability=targets))
    proof = prove(api, network, path, plan, "fp16")
    assert proof["typed_share"] == proof["stored_share"] == 1.0
    assert proof["stored_found"] > 0.9


@pytest.fixture(scope="module")
def of_float32(api: TensorRT) -> tuple[Any, bytes, list[tuple[str, int, int]]]:
    """The engine of the float32 graph, and what was told while it was built."""
    told: list[tuple[str, int, int]] = []
    return *built(api, exported(), progress=lambda work, done, total: told.append((work, done, total))), told


@pytest.mark.slow
def test_a_float32_graph_is_never_taken_for_half_precision(api: TensorRT, of_float32: tuple[Any, ...]) -> None:
    """The silent fault this proof is for: half precision asked, a float32 graph given, an engine built all the same."""
    path, (network, plan, _) = exported(), of_float32
    assert typed_share(api, network) == 0.0
    share, found = stored_share(path, plan)
    assert share == 0.0
    assert found > 0.9
    with pytest.raises(
        DtkError, match=r"does not compute in fp16[\s\S]*0.0 % of the weight bytes in its graph and 0.0 %"
    ):
        prove(api, network, path, plan, "fp16")
    assert prove(api, network, path, plan, "fp32")["typed_share"] == 0.0


@pytest.mark.slow
def test_weights_that_are_not_in_a_plan_are_not_found(of_float32: tuple[Any, ...]) -> None:
    assert stored_share(exported("fp16", 21), of_float32[1])[1] == 0.0, "rounded weights are other weights"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "opset"), [("fp32", 18), ("fp16", 18), ("bf16", 22)])
def test_every_type_and_opset_builds(api: TensorRT, dtype: Any, opset: int) -> None:
    path = exported(dtype, opset)
    network, plan = built(api, path)
    assert prove(api, network, path, plan, dtype)["typed_share"] == (0.0 if dtype == "fp32" else 1.0)


def one_node(operator: str, outputs: list[Any], path: Path) -> Path:
    """The ONNX file of a network of one operator, called volume."""
    image = helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 3, 3])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, outputs)
    node = helper.make_node(operator, ["sample"], ["result"], name="volume")
    graph = helper.make_graph([node], operator, [image], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize("name", ["sm90", "sm12", "ampere"])
def test_a_compute_capability_it_does_not_build_for_names_the_known(api: TensorRT, name: str, tmp_path: Path) -> None:
    path = one_node("Relu", ["batch", 3, 3], tmp_path / "allowed.onnx")
    with pytest.raises(UsageError, match=rf"does not build for {name}[\s\S]*sm120[\s\S]*sm89"):
        built(api, path, EngineSettings(compute_capability=(name,)))


def test_targets_are_refused_where_the_builder_builds_for_its_own_gpu(api: TensorRT, tmp_path: Path) -> None:
    path = one_node("Relu", ["batch", 3, 3], tmp_path / "allowed.onnx")
    with pytest.raises(UsageError, match=r"builds for the GPU it runs on[\s\S]*sm89"):
        built(TensorRT(api.module, rtx=False), path, EngineSettings(compute_capability=("sm89",)))


def test_an_operator_the_parser_refuses_is_named(api: TensorRT, tmp_path: Path) -> None:
    path = one_node("Det", ["batch"], tmp_path / "refused.onnx")
    with pytest.raises(DtkError, match=r"refuses refused\.onnx at the operator Det\.[\s\S]*volume"):
        built(api, path)


@pytest.mark.slow
def test_a_build_says_how_far_it_is_once_around(of_float32: tuple[Any, ...]) -> None:
    told = of_float32[2]
    done = [entry[1] for entry in told]
    assert done == sorted(done)
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] > 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_build_ends_at_its_next_step(api: TensorRT, tmp_path: Path) -> None:
    def interrupt(work: str, done: int, total: int) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        built(api, one_node("Relu", ["batch", 3, 3], tmp_path / "allowed.onnx"), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interruption_amid_the_builders_own_work_is_not_lost(api: TensorRT) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        built(api, exported(), progress=lambda work, done, total: None if done else timer.start())
    timer.join()


def test_the_monitor_keeps_an_interruption_out_of_the_builder(api: TensorRT) -> None:
    def interrupt(work: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monitor = progress_monitor(api, interrupt)
    monitor.phase_start("all", None, 2)
    assert monitor.step_complete("all", 0) is False


def test_with_no_tensorrt_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "PACKAGES", ("no_such_tensorrt",))
    with pytest.raises(
        MissingToolError, match=r"No TensorRT can work here[\s\S]*no_such_tensorrt[\s\S]*pip install"
    ) as raised:
        load_tensorrt()
    assert raised.value.exit_code == 3


@pytest.mark.slow
def test_an_interrupted_proof_costs_no_second_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    path, settings = exported(), ExportSettings.model_validate({"batch": "1:2:4"})
    arguments = (load_tensorrt(), path, describe(path) | {"dtype": "fp32"}, tmp_path / "out.plan", settings, silent)
    with monkeypatch.context() as broken:
        broken.setattr(engines, "prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engines.write_engine(*arguments)
    monkeypatch.setattr(engines, "build_plan", lambda *_: pytest.fail("built again"))
    found = engines.write_engine(*arguments)
    assert found["precision"]["typed_share"] == 0.0 and found["rebuilt"] is None
