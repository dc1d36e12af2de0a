"""Latency of two runners, dense and compressed, measured so that the difference is theirs and not the machine's.

Both get the same inputs and the same clock and alternate (A B A B ...), so a change of clock rate or load meets both.
Each round gives one paired ratio; the speed-up is the median of the ratios, with an interval from their order
statistics, which assumes nothing about how the times are distributed (David & Nagaraja, "Order Statistics", 7.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test

from profiles.settings import Rounds
from toolkit.core.errors import DtkError
from toolkit.runners.base import Runner

WARM_UP_CALLS = 3
CONFIDENCE = 0.95
WIDEST_INTERVAL = 0.10  # of the speed-up, to each side: a wider one says nothing about how much faster
SAME = 0.02  # an interval within 1 +- this is no difference: two sessions of one file were measured 1 % apart

FAR_OUT = 3.0  # interquartile ranges beyond the quartiles (Tukey 1977): an outlier that is shown, and never dropped

Call = Callable[[], object]
Clock = Callable[[Call], float]


@dataclass(frozen=True)
class Speedup:
    """How many times faster: the median paired ratio dense / compressed, its interval, and what may be said of it.

    ``verdict`` is "no difference" if the whole interval lies close to 1, else "faster" or "slower" if it excludes
    1, and "inconclusive" if the run was too noisy to tell.
    """

    value: float
    low: float
    high: float
    confidence: float
    verdict: str


def clock_of(device: str) -> Clock:
    """The clock of a device, in milliseconds: CUDA events on a GPU, the monotonic performance counter on a CPU."""
    return _cuda_ms if device.startswith("cuda") else _cpu_ms


def _cpu_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def _cuda_ms(work: Callable[[], object]) -> float:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def interleave(
    dense: Call, compressed: Call, clock: Clock, rounds: Rounds, warm_up: int = WARM_UP_CALLS
) -> tuple[np.ndarray, np.ndarray]:
    """Times of both in ms, (R,) each: warmed up, then interleaved, as many rounds as fit the seconds.

    Raises DtkError if the clock did not advance.
    """
    for _ in range(warm_up):
        one_round_ms = clock(dense) + clock(compressed)
    count = rounds_that_fit(one_round_ms, rounds)
    times_ms = np.array([(clock(dense), clock(compressed)) for _ in range(count)])
    if not (times_ms > 0).all():
        raise DtkError("The clock stood still or went backwards while a runner was timed.", do="profile again")
    return times_ms[:, 0], times_ms[:, 1]


def rounds_that_fit(one_round_ms: float, rounds: Rounds) -> int:
    """As many rounds as fit the seconds, within the bounds."""
    affordable = int(rounds.seconds * 1e3 / max(one_round_ms, 1e-6))
    return min(max(affordable, rounds.least), rounds.most)


def speedup(dense_ms: np.ndarray, compressed_ms: np.ndarray) -> Speedup:
    """The speed-up of paired times. Six rounds are the fewest that give an interval at 95 %."""
    ratios = dense_ms / compressed_ms
    value = float(np.median(ratios))
    interval = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(CONFIDENCE)
    low, high = float(interval.low), float(interval.high)
    return Speedup(value, low, high, CONFIDENCE, _verdict(value, low, high))


def _verdict(value: float, low: float, high: float) -> str:
    if not max(high - value, value - low) <= WIDEST_INTERVAL * value:
        return "inconclusive"
    if low >= 1 - SAME and high <= 1 + SAME:
        return "no difference"
    if low > 1 or high < 1:
        return "faster" if low > 1 else "slower"
    return "inconclusive"


def summary(times_ms: np.ndarray, batch: int) -> dict[str, Any]:
    """Percentiles in ms, the outliers among the times, and the images per second that the median makes."""
    percentiles = {f"p{p}_ms": float(np.percentile(times_ms, p)) for p in (50, 90, 95, 99)}
    images = {"images_per_s": batch / percentiles["p50_ms"] * 1e3}
    return percentiles | images | {"outliers_ms": outliers(times_ms)}


def outliers(times_ms: np.ndarray) -> list[float]:
    """The times that lie far out, by size. They stay in every percentile."""
    low, high = np.percentile(times_ms, (25, 75))
    reach = FAR_OUT * (high - low)
    return sorted(float(one) for one in times_ms if not low - reach <= one <= high + reach)


def compare_latency(
    dense: Runner,
    compressed: Runner,
    inputs: Mapping[str, torch.Tensor],
    rounds: Rounds,
) -> dict[str, Any]:
    """Latency of dense and compressed on the same ``inputs``: percentiles of each, the speed-up and its verdict.

    ``first_call_ms`` is the very first call at this batch size, which compiles and allocates.
    """
    device, batch = dense.device, len(inputs["sample"])
    clock = clock_of(device)

    def call_dense() -> object:
        return dense(**inputs)

    def call_compressed() -> object:
        return compressed(**inputs)

    first_ms = {"dense": clock(call_dense), "compressed": clock(call_compressed)}
    return {"first_call_ms": first_ms} | compare_calls(call_dense, call_compressed, device, batch, rounds)


def compare_calls(
    dense: Call, compressed: Call, device: str, batch: int, rounds: Rounds, warm_up: int = WARM_UP_CALLS
) -> dict[str, Any]:
    """Two calls that each make ``batch`` images, interleaved: percentiles of each, the speed-up and its verdict."""
    dense_ms, compressed_ms = interleave(dense, compressed, clock_of(device), rounds, warm_up)
    return {
        "rounds": len(dense_ms),
        "dense": summary(dense_ms, batch),
        "compressed": summary(compressed_ms, batch),
        "speedup": asdict(speedup(dense_ms, compressed_ms)),
    }
