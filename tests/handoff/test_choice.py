"""Which runtime serves: an engine that fits, ONNX Runtime only where the handoff allows it, else nothing, in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.handoff.fake_gpu import DECODER, PLAN, VERSION, Gpu, Kind
from toolkit.handoff.dtk_server import choice
from toolkit.handoff.dtk_server.refusal import UnfitError
from toolkit.handoff.dtk_server.tensorrt_stepper import TensorRTStepper

SHAPE, BATCH = (2, 3, 4), 5


def stored(folder: Path, *built_for: str, fallback: str = "refuse", content: bytes = PLAN) -> dict[str, Any]:
    """A manifest's step graph with one engine for each name, side by side."""
    engines = []
    for name in built_for:
        (folder / f"step.{name}.plan").write_bytes(content)
        entry = {"file": f"step.{name}.plan", "package": "tensorrt_rtx", "version": VERSION}
        engines.append(entry | {"compute_capability": [name]})
    return {"runtime": "tensorrt", "file": "step.onnx", "engines": engines, "fallback": fallback}


def opened(folder: Path, step_graph: dict[str, Any], told: list[str]) -> Any:
    place = {"device": "cuda", "device_id": 0, "threads": 1}
    return choice.open_stepper(folder, step_graph, told.append, image=SHAPE, batch=BATCH, **place)


def test_of_plans_side_by_side_the_one_for_this_gpu_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for capability, name in [((8, 9), "sm89"), ((12, 0), "sm120")]:
        Gpu(capability).install(monkeypatch)
        assert isinstance(opened(tmp_path, stored(tmp_path, "sm75", name, "sm86"), told), TensorRTStepper)
    assert not told


def test_images_stay_on_the_device_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, image_bytes = Gpu(), 4 * int(np.prod(SHAPE))
    gpu.install(monkeypatch)
    stepper = opened(tmp_path, stored(tmp_path, "sm89"), [])
    feed = {
        "timestep": np.zeros(3, np.int64),
        "coefficients": np.ones((3, 2), np.float32),
        "noise": np.zeros((3, *SHAPE), np.float32),
        "class_labels": np.ones(3, np.int64),
    }
    stepper.load(np.zeros((3, *SHAPE), np.float32))
    blocks = None
    for _ in range(4):
        stepper.step(3, feed)
        blocks = blocks or len(gpu.memory)
    assert len(gpu.memory) == blocks, "memory is taken once"
    assert not [copy for copy in gpu.copies if copy[0] == Kind.cudaMemcpyDeviceToHost], "nothing came back yet"
    assert [size for _, size in gpu.copies].count(3 * image_bytes) == 1 + 4, "the first noise, and each step's own"
    assert (stepper.rows(1, 3) == 4).all() and stepper.rows(2, 2).shape == (0, *SHAPE)
    with pytest.raises(ValueError, match="opened for 5 images, not for 6"):
        stepper.step(6, feed)
    with pytest.raises(RuntimeError, match="takes no timestep of shape"):
        stepper.step(0, feed | {"timestep": np.zeros(0, np.int64)})


def test_a_decoders_engine_computes_batches_of_several_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    gpu.install(monkeypatch)
    graph = opened_graph(tmp_path, part(tmp_path, "sm75", "sm89"))
    for count in (2, 5, 1):
        latents = np.random.default_rng(count).standard_normal((count, *SHAPE)).astype(np.float32)
        np.testing.assert_array_equal(graph({"latents": latents})["images"], 2 * latents.repeat(2, axis=-1))
    assert len(gpu.memory) == 2, "memory is taken once, for the largest batch"
    with pytest.raises(RuntimeError, match="takes no latents of shape"):
        graph({"latents": np.zeros((6, *SHAPE), np.float32)})


def part(folder: Path, *built_for: str) -> dict[str, Any]:
    """A manifest's decoder with one engine for each name."""
    return stored(folder, *built_for, content=DECODER) | {"file": "decoder.onnx", "input": "latents"}


def opened_graph(folder: Path, entry: dict[str, Any], fallback: str = "refuse", told: Any = None) -> Any:
    warn = (lambda message: None) if told is None else told.append
    step_graph = {"runtime": "tensorrt", "fallback": fallback}
    return choice.open_graph(folder, entry, step_graph, warn, batch=BATCH, device="cuda", device_id=0, threads=1)


def test_a_decoder_without_an_engine_is_onnx_runtimes_and_one_whose_engine_fails_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu().install(monkeypatch)
    monkeypatch.setattr(choice, "OnnxRuntimeGraph", lambda path, **place: (path.name, place["device"]))
    told: list[str] = []
    without = {"file": "decoder.onnx", "input": "latents"}
    assert opened_graph(tmp_path, without, told=told) == ("decoder.onnx", "cuda") and not told
    with pytest.raises(UnfitError, match="built for sm75, this GPU is sm89.*allows no other runtime"):
        opened_graph(tmp_path, part(tmp_path, "sm75"))
    assert opened_graph(tmp_path, part(tmp_path, "sm75"), "onnxruntime", told) == ("decoder.onnx", "cuda")
    assert "ONNX RUNTIME SERVES INSTEAD" in told[0]


FITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what the engine says of itself, the GPU, the installed version
    "its own model of GPU": ({"gpu": "NVIDIA L4"}, {}, VERSION),
    "its capability": (
        {"gpu": None, "hardware_compatible": "capability"},
        {"name": "NVIDIA GeForce RTX 4090"},
        VERSION,
    ),
    "from Ampere on": (
        {"gpu": None, "hardware_compatible": "ampere", "compute_capability": []},
        {"capability": (9, 0)},
        VERSION,
    ),
    "a later version": ({"version_compatible": True}, {}, "1.8.0.1"),
}


@pytest.mark.parametrize("case", FITS)
def test_an_engine_built_to_be_compatible_is_opened_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    facts, gpu, version = FITS[case]
    Gpu(**gpu).install(monkeypatch, version)
    step_graph = stored(tmp_path, "sm89")
    step_graph["engines"][0] |= facts
    assert isinstance(opened(tmp_path, step_graph, []), TensorRTStepper)


def test_an_engine_without_weights_takes_them_from_the_onnx_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stripped in (True, False):
        gpu = Gpu()
        gpu.install(monkeypatch)
        step_graph = stored(tmp_path, "sm89")
        step_graph["engines"][0]["stripped"] = stripped
        opened(tmp_path, step_graph, [])
        assert gpu.refits == ([str(tmp_path / "step.onnx")] if stripped else [])


REASONS: dict[str, Any] = {
    "another model": ({"name": "NVIDIA GeForce RTX 4090"}, VERSION, PLAN, "built for NVIDIA L4, this GPU is NVIDIA Ge"),
    "before Ampere": ({"capability": (7, 5)}, VERSION, PLAN, "built for sm89, this GPU is sm75"),
    "another gpu": ({"capability": (9, 0)}, VERSION, PLAN, "built for sm89, this GPU is sm90"),
    "another version": ({}, "1.6.0.1", PLAN, f"needs tensorrt_rtx {VERSION}, installed is 1.6.0.1"),
    "refused": ({}, VERSION, b"what no runtime reads", "refuses it on this GPU"),
    "no memory": ({"memory_bytes": 100}, VERSION, PLAN, "CUDA refuses cudaMalloc: cudaErrorMemoryAllocation"),
}


@pytest.mark.parametrize("case", REASONS)
@pytest.mark.parametrize("fallback", ["refuse", "onnxruntime"])
def test_a_plan_that_cannot_be_loaded_is_replaced_only_where_that_is_allowed_and_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, fallback: str
) -> None:
    gpu, version, content, words = REASONS[case]
    Gpu(**gpu).install(monkeypatch, version)
    monkeypatch.setattr(choice, "OnnxRuntimeStepper", lambda path, **place: (path.name, place["device"]))
    step_graph, told = stored(tmp_path, "sm89", fallback=fallback, content=content), []
    step_graph["engines"][0]["gpu"] = "NVIDIA L4"
    if fallback == "refuse":
        with pytest.raises(UnfitError, match=f"step.sm89.plan: .*{words}.* allows no other runtime"):
            opened(tmp_path, step_graph, told)
        assert not told
    else:
        assert opened(tmp_path, step_graph, told) == ("step.onnx", "cuda")
        assert words in told[0] and "ONNX RUNTIME SERVES INSTEAD" in told[0]


@pytest.mark.parametrize("package", ["tensorrt", "os"])
def test_a_package_that_is_absent_or_none_of_ours_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    step_graph = stored(tmp_path, "sm89")
    step_graph["engines"][0]["package"] = package
    with pytest.raises(UnfitError, match="needs tensorrt 1|names the package os"):
        opened(tmp_path, step_graph, [])


def test_without_the_cuda_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu().install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(UnfitError, match="needs the package cuda-bindings"):
        opened(tmp_path, stored(tmp_path, "sm89"), [])


def test_a_plan_outside_of_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu().install(monkeypatch)
    step_graph = stored(tmp_path, "sm89")
    step_graph["engines"][0]["file"] = "../step.plan"
    with pytest.raises(UnfitError, match="lies outside"):
        opened(tmp_path, step_graph, [])
