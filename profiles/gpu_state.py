"""What a GPU did while it was measured: clock, power, temperature, and what held it back, by NVML.

A clock that moved meets both models alike as long as they take turns, and makes every absolute figure one of no clock
in particular. Such a measurement is repeated, and refused if it fares no better.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from toolkit.core.errors import first_line

EVERY_S = 0.1
MOVED = 0.05  # of the highest SM clock that was seen
TRIES = 2
HELD_BACK = ("SwThermalSlowdown", "HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
"""The reasons that make a figure worthless; a power cap is what many GPUs work at, and shows as a clock that moves."""
REASONS = (*HELD_BACK, "SwPowerCap", "SyncBoost", "ApplicationsClocksSetting")
Sample = dict[str, Any]


class GpuWatch:
    """Samples a GPU while it is open; a CPU, or a GPU without NVML, has no samples and says why in ``record``."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.samples: list[Sample] = []
        self._absent: str | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> GpuWatch:
        if self.device.startswith("cuda"):
            try:
                read = _reader(self.device)
                self.samples.append(read())
            except Exception as error:  # NVML's errors are made when it is loaded; it is optional in every way
                self._absent = f"{type(error).__name__}: {first_line(error)}"
            else:
                self._thread = threading.Thread(target=self._watch, args=(read,), daemon=True)
                self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _watch(self, read: Callable[[], Sample]) -> None:
        while not self._done.wait(EVERY_S):
            self.samples.append(read())
        self.samples.append(read())

    def record(self) -> dict[str, Any]:
        """``gpu``: the range of each figure, the reasons that held the clock back; nothing for a CPU."""
        if not self.device.startswith("cuda"):
            return {}
        if self._absent:
            return {"gpu": {"not_read": self._absent}}
        ranges = {
            name: [min(sample[name] for sample in self.samples), max(sample[name] for sample in self.samples)]
            for name in ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")
        }
        reasons = sorted({reason for sample in self.samples for reason in sample["held_back_by"]})
        return {"gpu": {"samples": len(self.samples), **ranges, "held_back_by": reasons}}

    def refusal(self) -> str | None:
        """Why figures of this time are worth nothing, None if they are."""
        state = self.record().get("gpu", {})
        if worthless := [reason for reason in state.get("held_back_by", ()) if reason in HELD_BACK]:
            return f"the GPU was held back by {', '.join(worthless)}"
        low, high = state.get("sm_clock_mhz", (1, 1))
        return f"the SM clock moved between {low} and {high} MHz" if low < (1 - MOVED) * high else None


def steadily(measure: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    """What ``measure`` finds, and ``gpu``; measured again if the GPU was unsteady, then ``refused`` in words."""
    for _ in range(TRIES):
        with GpuWatch(device) as watch:
            measured = measure()
        if (refusal := watch.refusal()) is None:
            return measured | watch.record()
    return {"refused": refusal, **watch.record()}


def _reader(device: str) -> Callable[[], Sample]:
    """What reads the state of torch's ``device`` now. Raises if NVML is not installed or does not know the GPU."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    bits = {reason: getattr(pynvml, f"nvmlClocksEventReason{reason}") for reason in REASONS}

    def read() -> Sample:
        active = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return {
            "sm_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_w": pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "temperature_c": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "held_back_by": [reason for reason, bit in bits.items() if active & bit],
        }

    return read
