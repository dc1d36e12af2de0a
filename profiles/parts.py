"""Where the time is spent: each top-level part of the network in eager torch, dense and compressed side by side,
interleaved.

Hooks around each part read the device's clock. On a GPU they record events and wait for none, so that launches overlap
as they do unobserved.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from profiles.latency import WARM_UP_CALLS, clock_of, rounds_that_fit, wait, warm_up
from profiles.macs import top_level_parts
from profiles.settings import Rounds
from profiles.speedup import speedup
from toolkit.models.precision import BorderedDenoiser

WORTH_NAMING = 0.01  # of the dense model's time: parts that take less are not called slow


class PartClock:
    """Times every top-level part of ``network`` while it is called inside ``with``."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.parts, self.device = dict(top_level_parts(network)), device
        self._marks: dict[str, list[Any]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> PartClock:
        for name, part in self.parts.items():
            self._handles.append(part.register_forward_pre_hook(lambda *_, name=name: self._mark(name)))
            self._handles.append(part.register_forward_hook(lambda *_, name=name: self._mark(name)))
        return self

    def __exit__(self, *failure: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _mark(self, name: str) -> None:
        self._marks.setdefault(name, []).append(
            _event(self.device) if self.device.startswith("cuda") else time.perf_counter()
        )

    def take_ms(self) -> dict[str, float]:
        """Milliseconds each part took since the last call of this; a part that is called twice counts twice."""
        wait(self.device)
        marks, self._marks = self._marks, {}
        return {name: sum(map(self._between_ms, times[::2], times[1::2])) for name, times in marks.items()}

    def _between_ms(self, before: Any, after: Any) -> float:
        return before.elapsed_time(after) if self.device.startswith("cuda") else (after - before) * 1e3


def _event(device: str) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def compare_parts(
    dense: BorderedDenoiser,
    compressed: BorderedDenoiser,
    inputs: Mapping[str, torch.Tensor],
    device: str,
    rounds: Rounds,
) -> dict[str, Any]:
    """Median ms and speed-up of each part that both networks have, and ``no_faster``: those that gained nothing."""
    clock = clock_of(device)
    with (
        torch.inference_mode(),
        PartClock(dense.denoiser, device) as first,
        PartClock(compressed.denoiser, device) as second,
    ):
        warm_up([lambda: dense(**inputs), lambda: compressed(**inputs)], device)
        for _ in range(WARM_UP_CALLS):
            one_round_ms = clock(lambda: dense(**inputs)) + clock(lambda: compressed(**inputs))
            for part_clock in (first, second):
                part_clock.take_ms()
        times: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(rounds_that_fit(one_round_ms, rounds)):
            dense(**inputs)
            before = first.take_ms()
            compressed(**inputs)
            times.append((before, second.take_ms()))
    return compared(times)


def compared(times: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    """The parts that both networks have in every round, from each round's ms (dense, compressed) by part."""
    shared = [name for name in times[0][0] if all(name in parts for pair in times for parts in pair)]
    parts = {name: _compared(*(np.array([one[side][name] for one in times]) for side in (0, 1))) for name in shared}
    total = sum(part["dense_ms"] for part in parts.values())
    named = {name: part for name, part in parts.items() if part["dense_ms"] >= WORTH_NAMING * total}
    slow = [name for name, part in named.items() if part["speedup"]["verdict"] in ("slower", "no difference")]
    return {"rounds": len(times), "parts": parts, "no_faster": slow}


def _compared(dense_ms: np.ndarray, compressed_ms: np.ndarray) -> dict[str, Any]:
    medians = {"dense_ms": float(np.median(dense_ms)), "compressed_ms": float(np.median(compressed_ms))}
    return medians | {"speedup": asdict(speedup(dense_ms, compressed_ms))}
