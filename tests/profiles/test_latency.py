"""Latency: how times are taken and what may be said of them. Nothing here is timed: clocks are made of numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom

import profiles.latency
from profiles.latency import (
    WARM_UP_CALLS,
    WARM_UP_S,
    Timed,
    back_to_back,
    clock_of,
    compare_calls,
    device_clock_of,
    enqueue_ms,
    interleave,
    warm_up,
)
from profiles.settings import Rounds
from profiles.speedup import outliers, speedup, summary
from toolkit.core.errors import DtkError


def noisy(median_ms: float, spread: float, count: int = 101, seed: int = 0) -> np.ndarray:
    draw = np.random.Generator(np.random.Philox(seed))
    return median_ms * np.exp(spread * draw.standard_normal(count))


def test_runners_take_turns_and_are_warm_before_the_first_time_counts() -> None:
    calls: list[str] = []

    def clock(work: Callable[[], object]) -> float:
        work()
        return 1.0 if calls[-1] == "A" else 2.0

    rounds = Rounds(seconds=1e-9, least=7, most=7)
    dense, compressed = interleave((lambda: calls.append("A"), lambda: calls.append("B")), clock, rounds)
    assert calls == ["A", "B"] * (WARM_UP_CALLS + 7)
    assert dense.tolist() == [1.0] * 7
    assert compressed.tolist() == [2.0] * 7


@pytest.mark.parametrize(("call_ms", "expected"), [(0.01, 50), (10.0, 25), (1000.0, 11)])
def test_as_many_rounds_as_fit_the_time_within_bounds(call_ms: float, expected: int) -> None:
    rounds = Rounds(seconds=0.5, least=11, most=50)
    dense, _ = interleave((lambda: None, lambda: None), lambda work: call_ms, rounds)
    assert len(dense) == expected


@pytest.mark.parametrize("stuck", [0.0, -1.0])
def test_a_clock_that_does_not_advance_is_an_error(stuck: float) -> None:
    with pytest.raises(DtkError, match="clock stood still or went backwards"):
        interleave((lambda: None, lambda: None), lambda work: stuck, Rounds(seconds=1e-9))


def test_clocks_measure_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([100.0, 100.25])
    monkeypatch.setattr(profiles.latency.time, "perf_counter", lambda: next(ticks))
    assert clock_of("cpu")(lambda: None) == 250.0


def test_drift_that_meets_both_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1, 3, 101)
    found = speedup(20 * drift, 10 * drift)
    assert (found.value, found.low, found.high, found.verdict) == (2.0, 2.0, 2.0, "faster")


@pytest.mark.parametrize("count", [6, 11, 50, 201])
def test_the_interval_is_made_of_order_statistics_that_cover_the_median(count: int) -> None:
    """An independent account: between the k-th and the (n+1-k)-th value, k the largest with 2 P(B < k) <= 0.05."""
    ratios = np.sort(noisy(1.5, 0.1, count))
    k = max(k for k in range(1, count) if 2 * binom.cdf(k - 1, count, 0.5) <= 0.05)
    found = speedup(ratios, np.ones(count))
    assert (found.low, found.high) == (ratios[k - 1], ratios[count - k])


@pytest.mark.parametrize(
    ("dense_ms", "compressed_ms", "verdict"),
    [
        (noisy(20, 0.02, seed=1), noisy(10, 0.02, seed=2), "faster"),
        (noisy(10, 0.02, seed=1), noisy(20, 0.02, seed=2), "slower"),
        (noisy(10, 0.005, seed=1), noisy(10, 0.005, seed=2), "no difference"),
        (noisy(10.1, 0.005, seed=1), noisy(10, 0.005, seed=2), "no difference"),
        (noisy(10, 0.2, seed=1), noisy(10, 0.2, seed=2), "inconclusive"),
        (noisy(20, 2.0, 11, seed=1), noisy(10, 2.0, 11, seed=2), "inconclusive"),
        (noisy(50, 0.3, 31, seed=1), noisy(10, 0.3, 31, seed=2), "inconclusive"),
    ],
    ids=[
        *("faster", "slower", "no difference", "one hundredth", "nearly equal in noise", "twice in much noise"),
        "five times, but who knows how much",
    ],
)
def test_no_more_is_said_than_the_interval_allows(
    dense_ms: np.ndarray, compressed_ms: np.ndarray, verdict: str
) -> None:
    assert speedup(dense_ms, compressed_ms).verdict == verdict


def test_a_real_difference_is_seldom_claimed_where_there_is_none() -> None:
    said = [speedup(noisy(10, 0.05, seed=2 * n), noisy(10, 0.05, seed=2 * n + 1)).verdict for n in range(200)]
    assert sum(verdict in ("faster", "slower") for verdict in said) <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_percentiles_are_in_order_and_images_come_from_the_median() -> None:
    found = summary(np.arange(1.0, 102.0), batch=8)
    percentiles = {"p50_ms": 51, "p90_ms": 91, "p95_ms": 96, "p99_ms": 100}
    assert found == percentiles | {"images_per_s": pytest.approx(8000 / 51), "outliers_ms": []}


def test_what_lies_far_out_is_shown_and_stays_in_the_percentiles() -> None:
    times = np.array([10.0, 11, 12, 13, 14] * 20)  # quartiles 11 and 13: far out is below 5 and above 19
    assert outliers(np.append(times, [5.0, 19.0])) == []
    found = summary(np.append(times, [30.0, 4.9, 19.1]), batch=1)
    assert found["outliers_ms"] == [4.9, 19.1, 30.0]
    assert found["p99_ms"] > 14


class Gpu:
    """A GPU and its host on one clock that only they move: a call is launched in 1 ms and computed in ``ms``.

    What was launched is computed in order; to wait is to let the clock run to its end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.idle_from, self.devices, gpu = 0.0, 0.0, set[str](), self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing

            def record(self, stream: str) -> None:
                gpu.devices.add(stream)
                self.ms = max(gpu.now, gpu.idle_from)

            def synchronize(self) -> None:
                gpu.now = max(gpu.now, self.ms)

            def elapsed_time(self, end_event: Event) -> float:
                return end_event.ms - self.ms

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)
        monkeypatch.setattr(profiles.latency.time, "perf_counter", lambda: self.now / 1e3)

    def wait(self, device: str) -> None:
        self.devices.add(device)
        self.now = max(self.now, self.idle_from)

    def call(self, ms: float) -> Callable[[], None]:
        def launched() -> None:
            self.now += 1.0
            self.idle_from = max(self.now, self.idle_from) + ms

        return launched


def test_call_enqueue_and_device_time_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small work is bound by its launches, large work is not, and a second GPU has a clock of its own."""
    gpu = Gpu(monkeypatch)
    for ms, in_a_row in ((0.25, 1.0), (5.0, 5.0)):
        assert clock_of("cuda:1")(gpu.call(ms)) == pytest.approx(1 + ms)
        assert enqueue_ms(gpu.call(ms), "cuda:1") == pytest.approx(1)
        calls = {"dense": Timed(gpu.call(2 * ms), 1), "compressed": Timed(gpu.call(ms), 1)}
        found = back_to_back(calls, "cuda:1", Rounds(seconds=1e-9, least=6))
        assert found["compressed"] == pytest.approx(in_a_row, rel=0.2)
    assert found["speedup"]["value"] == pytest.approx(2, rel=0.05)
    assert device_clock_of("cuda:1")(gpu.call(5.0)) == pytest.approx(6)
    assert gpu.devices == {"cuda:1"}


def test_a_gpu_is_busy_for_a_second_before_a_time_counts_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    warm_up([gpu.call(30.0), gpu.call(10.0)], "cpu")
    assert gpu.now == 0
    warm_up([gpu.call(30.0), gpu.call(10.0)], "cuda")
    assert WARM_UP_S * 1e3 <= gpu.now < WARM_UP_S * 1e3 + 50


def test_blocks_hold_one_network_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking turns call by call evicts from the caches what a network alone would find there."""
    order: list[str] = []
    monkeypatch.setattr(profiles.latency, "BLOCK_MS", 50.0)
    monkeypatch.setattr(profiles.latency, "clock_of", lambda device: lambda work: work() or 10.0)
    calls = {name: Timed(lambda name=name: order.append(name), 1) for name in ("dense", "compressed")}
    back_to_back(calls, "cpu", Rounds(seconds=1e-9, least=6))
    assert "".join(name[0] for name in order).endswith(("d" * 5 + "c" * 5) * 7)


def test_gains_are_of_images_and_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline may make more images at once."""
    last: list[float] = []
    monkeypatch.setattr(profiles.latency, "clock_of", lambda device: lambda work: (work(), last.pop())[1])
    ms = {"dense": (20.0, 4), "compressed": (10.0, 4), "baseline": (90.0, 12)}
    calls = {name: Timed(lambda one=one: last.append(one), images) for name, (one, images) in ms.items()}
    found = compare_calls(calls, "cpu", Rounds(seconds=1e-9, least=6))
    assert (found["speedup"]["value"], found["over_baseline"]["value"]) == (2.0, pytest.approx(3.0))
    assert found["baseline"]["images_per_s"] == pytest.approx(12 / 90 * 1e3)
    assert found["rounds"] == 6
