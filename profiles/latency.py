"""Latency of calls, dense and compressed, measured so that the difference is theirs and not the machine's.

All get the same inputs and the same clock and take turns (A B A B ...), so a change of clock rate or load meets all.
Each round gives one paired ratio, of which profiles.speedup says what they show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from profiles.settings import FEWEST_ROUNDS, Rounds
from profiles.speedup import speedup, summary
from toolkit.core.errors import DtkError

WARM_UP_CALLS = 3
WARM_UP_S = 1.0  # of a GPU, whose clocks rise from idle within that time

BLOCK_MS = 50.0  # of calls in a row
FEWEST_IN_A_ROW, MOST_IN_A_ROW = 2, 200
ENQUEUES = 20
GAINS = {"speedup": "dense", "over_baseline": "baseline"}  # what compressed is compared with

Call = Callable[[], object]
Clock = Callable[[Call], float]


@dataclass(frozen=True)
class Timed:
    """A call, and how many images it makes."""

    call: Call
    images: int


def wait(device: str) -> None:
    """Until a GPU has done all it was given; a CPU has by the time a call returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def clock_of(device: str) -> Clock:
    """Call time in ms, on the host's clock: from the call to an idle device until its result is there."""

    def call_ms(work: Callable[[], object]) -> float:
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        return (time.perf_counter() - started) * 1e3

    return call_ms


def device_clock_of(device: str) -> Clock:
    """What the device itself was busy for, in ms, by events on its stream; on a CPU that is the call time."""

    def device_ms(work: Callable[[], object]) -> float:
        stream = torch.cuda.current_stream(device)
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        wait(device)
        before.record(stream)
        work()
        after.record(stream)
        after.synchronize()
        return float(before.elapsed_time(after))

    return device_ms if device.startswith("cuda") else clock_of(device)


def warm_up(calls: Sequence[Call], device: str) -> None:
    """Keep a GPU busy for WARM_UP_S, so that its clocks have risen before a time counts; a CPU needs none of it."""
    started = time.perf_counter()
    while device.startswith("cuda") and time.perf_counter() - started < WARM_UP_S:
        for call in calls:
            call()
        wait(device)


def interleave(calls: Sequence[Call], clock: Clock, rounds: Rounds, warm_up_calls: int = WARM_UP_CALLS) -> np.ndarray:
    """Times in ms of all ``calls`` in turns, (calls, R): warmed up, then as many rounds as fit the seconds.

    Raises DtkError if the clock did not advance.
    """
    for _ in range(warm_up_calls):
        one_round_ms = sum(clock(call) for call in calls)
    count = rounds_that_fit(one_round_ms, rounds)
    times_ms = np.array([[clock(call) for call in calls] for _ in range(count)])
    if not (times_ms > 0).all():
        raise DtkError("The clock stood still or went backwards while a runner was timed.", do="profile again")
    return times_ms.T


def rounds_that_fit(one_round_ms: float, rounds: Rounds) -> int:
    """As many rounds as fit the seconds, within the bounds."""
    affordable = int(rounds.seconds * 1e3 / max(one_round_ms, 1e-6))
    return min(max(affordable, rounds.least), rounds.most)


def compare_calls(
    calls: Mapping[str, Timed], device: str, rounds: Rounds, warm_up_calls: int = WARM_UP_CALLS
) -> dict[str, Any]:
    """All ``calls`` in turns: percentiles of each by its name, and what ``compressed`` won over the others.

    ``speedup`` is over ``dense`` and ``over_baseline`` over ``baseline``, as ratios of the time of an image.
    """
    times_ms = interleave([timed.call for timed in calls.values()], clock_of(device), rounds, warm_up_calls)
    by_name = dict(zip(calls, times_ms, strict=True))
    per_image = {name: times / calls[name].images for name, times in by_name.items()}
    return {
        "rounds": times_ms.shape[1],
        **{name: summary(times, calls[name].images) for name, times in by_name.items()},
        **{
            gain: asdict(speedup(per_image[slower], per_image["compressed"]))
            for gain, slower in GAINS.items()
            if slower in by_name
        },
    }


def back_to_back(calls: Mapping[str, Timed], device: str, rounds: Rounds) -> dict[str, Any]:
    """The same calls many times in a row (A A A ... B B B ...), as a loop makes them: what one takes, in ms by name.

    Taking turns evicts from the caches what a network would find there if it were alone, and each call waits for the
    device. Here the device's own clock times whole blocks, which take turns. ``speedup`` is dense over compressed.
    """
    clock, blocks = device_clock_of(device), []
    for timed in calls.values():
        timed.call()
        count = max(FEWEST_IN_A_ROW, min(int(BLOCK_MS / clock(timed.call)), MOST_IN_A_ROW))
        blocks.append((_repeated(timed.call, count), count))
    times_ms = interleave([block for block, _ in blocks], clock, rounds.model_copy(update={"least": FEWEST_ROUNDS}), 1)
    each = {name: times / count for name, times, (_, count) in zip(calls, times_ms, blocks, strict=True)}
    medians: dict[str, Any] = {name: float(np.median(times)) for name, times in each.items()}
    return medians | {"speedup": asdict(speedup(each["dense"], each["compressed"]))}


def _repeated(call: Call, count: int) -> Call:
    def block() -> None:
        for _ in range(count):
            call()

    return block


def enqueue_ms(call: Call, device: str) -> float:
    """How long the host is busy until a call has returned, whatever the device still does: the median, in ms."""
    times = []
    for _ in range(ENQUEUES):
        wait(device)
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))
