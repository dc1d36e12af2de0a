"""The table of latencies: measured once, kept under all it depends on, never kept if it was noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import profiles.latency
from profiles.latency_table import NOISIEST, TURNS, LatencyTable
from profiles.settings import Rounds
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator

DENSE = {"block_out_channels": [32]}
ROUNDS = Rounds(seconds=1e-9, least=20, most=20)
INPUTS = {"sample": torch.zeros(2, 1, 4, 4), "timestep": torch.zeros(2, dtype=torch.int64)}


class Opened:
    """Opens runners that take as many ms as their width, and keeps count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spread: float = 0.0) -> None:
        self.opened: list[int] = []
        self.closed = 0
        self.draw, self.spread, self.last_ms, self.used_s = generator("clock", 0), spread, 0.0, 0.0
        monkeypatch.setattr("profiles.latency_table.clock_of", lambda device: self.clock)

    def clock(self, work: Any) -> float:
        work()
        return float(self.last_ms * (1 + self.spread * self.draw.random()))

    def processor_s(self) -> float:
        return self.used_s

    @contextmanager
    def __call__(self, config: Mapping[str, Any]) -> Iterator[Any]:
        (width,) = config["block_out_channels"]
        self.opened.append(width)
        opened = self

        class Runner:
            name, device = "fake", "cpu"

            def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
                assert inputs is not INPUTS and inputs["sample"] is INPUTS["sample"]
                opened.last_ms = float(width)
                opened.used_s += width / 1e3
                return inputs["sample"]

            def close(self) -> None: ...

        try:
            yield Runner()
        finally:
            self.closed += 1


def table(folder: Path, opened: Opened, **facts: Any) -> LatencyTable:
    return LatencyTable(folder, {"runner": "fake", **facts}, DENSE, opened, INPUTS, ROUNDS)


def test_an_entry_is_measured_once_and_the_dense_model_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(monkeypatch)
    with table(tmp_path, opened) as first:
        timing = first.measure({"block_out_channels": [16]})
        first.measure({"block_out_channels": [24]})
    assert (timing.dense_ms, timing.ms, timing.fraction, timing.low, timing.high) == (32, 16, 0.5, 0.5, 0.5)
    assert opened.opened == [16, 32, 24]
    assert opened.closed == 3
    with table(tmp_path, opened) as again:
        assert again.measure({"block_out_channels": [16]}) == timing
    assert opened.opened == [16, 32, 24], "a table that is whole opens nothing"


@pytest.mark.parametrize("changed", [{"runner": "other"}, {"versions": {"torch": "3"}}, {"batch": 2}])
def test_what_a_latency_depends_on_has_a_table_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    opened = Opened(monkeypatch)
    with table(tmp_path, opened) as one, table(tmp_path, opened, **changed) as other:
        one.measure({"block_out_channels": [16]})
        other.measure({"block_out_channels": [16]})
    assert opened.opened.count(16) == 2
    assert len(list(tmp_path.glob("*/table.json"))) == 2


def test_an_interrupted_measurement_goes_on_at_the_next_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    with pytest.raises(KeyboardInterrupt), table(tmp_path, opened) as first:
        first.measure({"block_out_channels": [16]})
        monkeypatch.setattr(profiles.latency_table, "speedup", _interrupted)
        first.measure({"block_out_channels": [24]})
    monkeypatch.undo()
    opened = Opened(monkeypatch)
    with table(tmp_path, opened) as again:
        for width in (16, 24):
            again.measure({"block_out_channels": [width]})
    assert opened.opened == [24, 32]


def _interrupted(*times: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["", "{", '{"timing": {}}', '{"timing": null}'])
def test_a_damaged_entry_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    opened = Opened(monkeypatch)
    with table(tmp_path, opened) as found:
        timing = found.measure({"block_out_channels": [16]})
        (entry,) = (path for path in found.folder.iterdir() if path.name != "table.json")
        entry.write_text(damage)
        assert found.measure({"block_out_channels": [16]}) == timing
    assert opened.opened.count(16) == 2


def test_noise_is_measured_longer_and_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    opened = Opened(monkeypatch, spread=4.0)
    with table(tmp_path, opened) as found:
        timing = found.measure({"block_out_channels": [16]})
        assert timing.noise > NOISIEST
        assert timing.rounds == TURNS * ROUNDS.most
        found.measure({"block_out_channels": [16]})
    assert opened.opened.count(16) == 2


def test_one_thread_of_a_busy_machine_is_timed_by_its_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(monkeypatch, spread=4.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("profiles.latency_table.time.process_time", opened.processor_s)
    with table(tmp_path, opened) as found:
        timing = found.measure({"block_out_channels": [16]})
        assert (timing.clock, timing.dense_ms, timing.ms) == ("processor", pytest.approx(32), pytest.approx(16))
        assert timing.fraction == pytest.approx(0.5)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        assert found.measure({"block_out_channels": [24]}).clock == "wall", "threads wait for each other"
    assert len(list(found.folder.glob("*.json"))) == 2, "the table's facts and the one entry that was not noise"


def test_a_clock_that_goes_backwards_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    monkeypatch.setattr(opened, "clock", lambda work: -1.0)
    with table(tmp_path, opened) as found, pytest.raises(DtkError, match="went backwards"):
        found.measure({"block_out_channels": [16]})


def test_a_device_that_disappears_is_said_and_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)

    def lost(work: Any) -> float:
        raise RuntimeError("CUDA error: device lost\nmore")

    monkeypatch.setattr(opened, "clock", lost)
    with (
        table(tmp_path, opened) as found,
        pytest.raises(DtkError, match=r"fake failed on cpu while batch 2[\s\S]*device lost\n[\s\S]*dtk doctor"),
    ):
        found.measure({"block_out_channels": [16]})
    assert [path.name for path in found.folder.iterdir()] == ["table.json"]
    assert opened.closed == 2, "both runners are closed"
