"""Peak memory, in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from profiles.memory import measure_memory
from tests.exported import specs_of, tiny_model
from toolkit.adapters.base import InputSpec
from toolkit.core.errors import DtkError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return measure_memory("torch", tiny_model(), specs_of(tiny_model()), 1)


def test_a_batch_that_holds_more_takes_more(small: dict[str, Any]) -> None:
    large = measure_memory("torch", tiny_model(), specs_of(tiny_model()), 1024)
    sample_mib = 1024 * 3 * 8 * 8 * 4 / 2**20
    assert large["peak_rss_mib"] > small["peak_rss_mib"] + 10 * sample_mib  # 16 channels at full size alone are 5
    assert small["peak_rss_mib"] > small["imports_rss_mib"] > 10


def test_what_this_process_holds_is_not_counted(small: dict[str, Any]) -> None:
    ballast = bytearray(1 << 30)
    ballast[:: 1 << 12] = b"x" * (1 << 18)  # every page is really there
    after = measure_memory("torch", tiny_model(), specs_of(tiny_model()), 1)["peak_rss_mib"]
    assert abs(after - small["peak_rss_mib"]) < 200, len(ballast)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    specs = {"sample": InputSpec((1, 2, 2)), "timestep": InputSpec((), "int64", 10)}
    with pytest.raises(DtkError, match=r"memory of the runner onnxruntime failed at batch 3[\s\S]*found: "):
        measure_memory("onnxruntime", tmp_path / "absent.onnx", specs, 3)


def test_memory_of_a_device_counts_what_is_taken_past_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from profiles import memory
    from toolkit.core.files import read_json, write_json

    free_mib = iter([1000, 700])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free_mib) * 2**20, 2000 * 2**20))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 40 * 2**20)
    monkeypatch.setattr(memory, "example_inputs", lambda *args, **options: {})
    monkeypatch.setattr(memory, "open_runner", lambda *args, **options: lambda **inputs: None)
    job = {"runner": "onnxruntime", "source": "x.onnx", "component": None, "device": "cuda", "options": {}}
    write_json(tmp_path / "job.json", job | {"specs": {}, "batch": 4})
    memory.work(tmp_path / "job.json", tmp_path / "result.json")
    assert read_json(tmp_path / "result.json")["peak_device_mib"] == 300
