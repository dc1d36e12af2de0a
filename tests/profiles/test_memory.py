"""Peak memory, in real processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from profiles import memory
from profiles.memory import measure_memory
from tests.exported import specs_of, tiny_model
from toolkit.adapters.base import InputSpec
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def interpreters() -> Iterator[None]:
    """Those that other tests spare themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "subprocess", subprocess)
        yield


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return measured(1)


def measured(batch: int) -> dict[str, Any]:
    model = tiny_model()
    figures: dict[str, Any] = measure_memory("torch", {"model": model}, specs_of(model), batch)["model"]
    return figures


def test_a_batch_that_holds_more_takes_more(small: dict[str, Any]) -> None:
    large = measured(1024)
    sample_mib = 1024 * 3 * 8 * 8 * 4 / 2**20
    assert large["peak_rss_mib"] > small["peak_rss_mib"] + 10 * sample_mib  # 16 channels at full size alone are 5
    assert small["peak_rss_mib"] > small["imports_rss_mib"] > 10


def test_what_this_process_holds_is_not_counted(small: dict[str, Any]) -> None:
    ballast = bytearray(1 << 30)
    ballast[:: 1 << 12] = b"x" * (1 << 18)  # every page is really there
    after = measured(1)["peak_rss_mib"]
    assert abs(after - small["peak_rss_mib"]) < 200, len(ballast)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    specs = {"sample": InputSpec((1, 2, 2)), "timestep": InputSpec((), "int64", 10)}
    with pytest.raises(DtkError, match=r"memory of the runner onnxruntime failed at batch 3[\s\S]*found: "):
        measure_memory("onnxruntime", {"model": tmp_path / "absent.onnx"}, specs, 3)


@pytest.mark.parametrize(
    ("runner", "mib", "by"),
    [
        ("torch", 40, "torch's allocator"),
        ("onnxruntime", 300, "the free memory before and after"),
        ("tensorrt", 40 + 70, "torch's allocator and TensorRT's own figures"),
    ],
)
def test_memory_of_a_device_is_the_peak_of_whoever_allocates(
    runner: str, mib: int, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the device lost while another process took some of it is nobody's peak."""
    free_mib = iter([1000, 700])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free_mib) * 2**20, 2000 * 2**20))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 40 * 2**20)
    monkeypatch.setattr(memory, "example_inputs", lambda *args, **options: {})

    class Idle:
        device_bytes = 70 * 2**20

        def __call__(self, **inputs: torch.Tensor) -> None: ...

    monkeypatch.setattr(memory, "open_runner", lambda *args, **options: Idle())
    job = {"runner": runner, "source": "x.onnx", "component": None, "device": "cuda:1", "options": {}}
    memory.measure(job | {"specs": {}, "batch": 4}, tmp_path / "result.json")
    found = read_json(tmp_path / "result.json")
    assert (found["peak_device_mib"], found["peak_device_by"]) == (mib, by)
