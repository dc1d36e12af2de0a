"""What a GPU did while it was measured, by an NVML that takes the names and arguments of the real one."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from profiles import gpu_state
from profiles.gpu_state import TRIES, GpuWatch, steadily

REASONS = {  # nvml.h
    "ApplicationsClocksSetting": 0x2,
    "SwPowerCap": 0x4,
    "HwSlowdown": 0x8,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}


class Nvml:
    """One GPU with clocks and reasons that a test sets; the second of two, so that an index would miss it."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        self.clocks, self.reasons, self.started = [1980], 0, False
        for name, bit in REASONS.items():
            setattr(self, f"nvmlClocksEventReason{name}", bit)

    def nvmlInit(self) -> None:
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert self.started and uuid == "GPU-5b1c"
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:
        if type == self.NVML_CLOCK_MEM:
            return 2619
        return self.clocks.pop(0) if len(self.clocks) > 1 else self.clocks[0]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 412_500

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    nvml, uuids = Nvml(), {"cuda:1": "5b1c"}
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[device]))
    monkeypatch.setattr(gpu_state, "EVERY_S", 1e-4)
    return nvml


def watched(nvml: Nvml) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        while len(nvml.clocks) > 1:  # the watch reads them from a thread
            pass
        return {"p50_ms": 3.0}

    return steadily(measure, "cuda:1")


def test_a_steady_gpu_is_recorded_beside_the_figure(nvml: Nvml) -> None:
    nvml.clocks, nvml.reasons = [1980, 1965, 1980], REASONS["SwPowerCap"]
    found = watched(nvml)
    assert found["p50_ms"] == 3.0
    assert found["gpu"].pop("samples") >= 3
    assert found["gpu"] == {
        "sm_clock_mhz": [1965, 1980],
        "memory_clock_mhz": [2619, 2619],
        "power_w": [412.5, 412.5],
        "temperature_c": [61, 61],
        "held_back_by": ["SwPowerCap"],
    }


def test_a_clock_that_moved_is_measured_again_and_then_counts(nvml: Nvml) -> None:
    nvml.clocks = [345, 1200, 1980]
    assert watched(nvml)["gpu"]["sm_clock_mhz"] == [1980, 1980]


@pytest.mark.parametrize("reason", gpu_state.HELD_BACK)
def test_what_was_held_back_is_refused_with_the_reason_and_shows_no_figure(nvml: Nvml, reason: str) -> None:
    nvml.reasons = REASONS[reason]
    found = watched(nvml)
    assert found["refused"] == f"the GPU was held back by {reason}"
    assert "p50_ms" not in found and found["gpu"]["held_back_by"] == [reason]


def test_a_clock_that_keeps_moving_is_refused(nvml: Nvml) -> None:
    tries = 0

    def measure() -> dict[str, Any]:
        nonlocal tries
        tries += 1
        nvml.clocks = [1500, 1980]
        while len(nvml.clocks) > 1:
            pass
        return {"p50_ms": 3.0}

    nvml.clocks = [1980]
    assert steadily(measure, "cuda:1")["refused"] == "the SM clock moved between 1500 and 1980 MHz"
    assert tries == TRIES


def test_a_gpu_without_nvml_says_so_and_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = steadily(lambda: {"p50_ms": 3.0}, "cuda")
    assert found["p50_ms"] == 3.0 and found["gpu"]["not_read"].startswith("ModuleNotFoundError")
    assert steadily(lambda: {"p50_ms": 3.0}, "cpu") == {"p50_ms": 3.0}
    with GpuWatch("cpu") as watch:
        assert watch.refusal() is None
