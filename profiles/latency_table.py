"""Latencies of stock configurations on this device and runner, each measured whole and interleaved with the dense
model.

The table lies on disk (profiles.table): an interrupted measurement resumes at the next entry.

On a machine that is too busy for the wall clock, one thread is timed by the processor time it used: what its call would
take if nothing else wanted the processor. The entry says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from profiles.latency import WARM_UP_CALLS, clock_of, interleave, warm_up
from profiles.opened import faults_named
from profiles.settings import Rounds
from profiles.speedup import speedup
from profiles.table import Table
from toolkit.runners.base import Runner

SCHEMA_VERSION = 2
PRECISION = 0.02  # of the ratio, to each side: measuring ends when the interval is this narrow
TURNS = 3  # or after that many times the rounds
WALL, PROCESSOR = "wall", "processor"
NOISIEST = 0.05  # a wider entry is not kept

Config = Mapping[str, Any]
Open = Callable[[Config], AbstractContextManager[Runner]]


@dataclass(frozen=True)
class Timing:
    """A network interleaved with the dense one: medians in ms, and latency over dense with its 95 % interval."""

    dense_ms: float
    ms: float
    fraction: float
    low: float
    high: float
    rounds: int
    clock: str = WALL

    @property
    def noise(self) -> float:
        """How far the interval reaches, relative to the fraction."""
        return max(self.high - self.fraction, self.fraction - self.low) / self.fraction


class LatencyTable:
    """The table of one dense configuration, opened with ``with``; the dense runner is opened when first needed.

    ``facts`` is all that a latency depends on besides the configuration measured; ``open_runner`` opens a network of a
    configuration, with any weights, and closes it.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        dense: Config,
        open_runner: Open,
        inputs: Mapping[str, torch.Tensor],
        rounds: Rounds,
    ) -> None:
        self._table = Table(folder, {"schema_version": SCHEMA_VERSION, **facts, "dense": dict(dense)})
        self.folder = self._table.folder
        self._dense_config, self._open, self._inputs, self._rounds = dense, open_runner, inputs, rounds
        self._stack = ExitStack()
        self._dense: Runner | None = None

    def __enter__(self) -> LatencyTable:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def measure(self, config: Config) -> Timing:
        """The configuration's entry, measured if the table has none. One process measures at a time."""

        def measured() -> dict[str, Any]:
            with self._open(config) as runner:
                return asdict(self.compare(runner))

        entry = self._table.get(
            config,
            measured,
            is_whole=lambda timing: bool(Timing(**timing)),
            is_worth_keeping=lambda timing: Timing(**timing).noise <= NOISIEST,
        )
        return Timing(**entry)

    def compare(self, runner: Runner) -> Timing:
        """A runner interleaved with the dense one, until the ratio is known well or the time is up; nothing is kept."""
        if self._dense is None:
            self._dense = self._stack.enter_context(self._open(self._dense_config))
        with faults_named(runner.name, runner.device, len(self._inputs["sample"])):
            return compare(self._dense, runner, self._inputs, self._rounds)


def compare(dense: Runner, other: Runner, inputs: Mapping[str, torch.Tensor], rounds: Rounds) -> Timing:
    """Both interleaved on the same inputs, round after round until the interval of the ratio is within PRECISION."""
    clock, calls = TwoClocks(dense.device), (lambda: dense(**inputs), lambda: other(**inputs))
    warm_up(calls, dense.device)
    for _ in range(TURNS):
        clock.taken.append(interleave(calls, clock, rounds))
        timing = _timing(np.concatenate(clock.taken, axis=1), WALL)
        if timing.noise <= PRECISION:
            return timing
    if dense.device != "cpu" or torch.get_num_threads() > 1:  # threads also wait for each other
        return timing
    by_processor = _timing(clock.processor_ms(), PROCESSOR)
    return by_processor if by_processor.noise < timing.noise else timing


class TwoClocks:
    """The device's clock, which notes the processor time of every call as well."""

    def __init__(self, device: str) -> None:
        self._wall = clock_of(device)
        self._processor: list[float] = []
        self.taken: list[np.ndarray] = []
        """(2, R) ms of the wall clock a turn: dense, other; the calls before each turn's rounds warmed up."""

    def __call__(self, work: Callable[[], object]) -> float:
        started = time.process_time()
        wall_ms = self._wall(work)
        self._processor.append((time.process_time() - started) * 1e3)
        return wall_ms

    def processor_ms(self) -> np.ndarray:
        """(2, R) of all turns."""
        calls = iter(self._processor)
        turns = [list(islice(calls, 2 * WARM_UP_CALLS + turn.size))[2 * WARM_UP_CALLS :] for turn in self.taken]
        return np.concatenate(turns).reshape(-1, 2).T


def _timing(times_ms: np.ndarray, clock: str) -> Timing:
    dense_ms, ms = times_ms
    ratio = speedup(ms, dense_ms)
    medians = float(np.median(dense_ms)), float(np.median(ms))
    return Timing(*medians, ratio.value, ratio.low, ratio.high, dense_ms.size, clock)
