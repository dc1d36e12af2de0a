"""Times of a network's parts: whose they are, how often they count, and what is called no faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import profiles.parts
from profiles.comparison import compare_network_parts
from profiles.parts import PartClock, compare_parts
from profiles.settings import ProfileSettings, Rounds
from tests.tiny import PLAIN, TWO_LEVELS, tiny_folder, tiny_unet
from toolkit.models.precision import BorderedDenoiser

ROUNDS = Rounds(seconds=1e-9, least=6)


class Idling(nn.Module):
    """A part that lets the clock run on by ``seconds``."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds
        return x


class Clock:
    """A clock that only parts move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Network(nn.Module):
    """Two parts in a list, the first called twice, one on its own, and one that is never called."""

    def __init__(self, clock: Clock, seconds: tuple[float, float, float]) -> None:
        super().__init__()
        first, second, last = (Idling(clock, one) for one in seconds)
        self.blocks, self.last, self.spare = nn.ModuleList([first, second]), last, Idling(clock, 99.0)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (self.last(self.blocks[1](self.blocks[0](self.blocks[0](sample)))),)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(profiles.parts.time, "perf_counter", clock)
    return clock


INPUTS = {"sample": torch.zeros(2, 1, 2, 2), "timestep": torch.zeros(2, dtype=torch.int64)}


def test_each_part_has_its_own_time_and_the_unused_has_none(clock: Clock) -> None:
    dense, compressed = (BorderedDenoiser(Network(clock, seconds)) for seconds in ((0.5, 0.25, 1.0), (0.25, 0.25, 2.0)))
    found = compare_parts(dense, compressed, INPUTS, "cpu", ROUNDS)
    times = {name: (part["dense_ms"], part["compressed_ms"]) for name, part in found["parts"].items()}
    assert times == {"blocks.0": (1000, 500), "blocks.1": (250, 250), "last": (1000, 2000)}
    assert found["parts"]["blocks.0"]["speedup"]["verdict"] == "faster"
    assert found["no_faster"] == ["blocks.1", "last"]
    assert found["rounds"] == 6


@pytest.mark.parametrize("network", [PLAIN, TWO_LEVELS])
def test_the_parts_of_a_network_take_the_time_of_its_layers(clock: Clock, network: dict[str, object]) -> None:
    """No layer counts in two parts, and none in no part."""
    dense, compressed = (tiny_unet(**network) for _ in range(2))
    for layer in (module for unet in (dense, compressed) for module in unet.modules() if not list(module.children())):
        layer.register_forward_hook(lambda *_: setattr(clock, "now", clock.now + 1))
    inputs = {"sample": torch.zeros(2, 3, 16, 16), "timestep": torch.zeros(2, dtype=torch.int64)}
    dense(**inputs)
    layers = clock.now
    found = compare_parts(BorderedDenoiser(dense), BorderedDenoiser(compressed), inputs, "cpu", ROUNDS)
    assert sum(part["dense_ms"] for part in found["parts"].values()) == 1e3 * layers > 1e4


def test_parts_that_take_next_to_nothing_are_not_called_slow(clock: Clock) -> None:
    dense, compressed = (BorderedDenoiser(Network(clock, (1.0, 1 / 256, one))) for one in (2.0, 1.0))
    assert compare_parts(dense, compressed, INPUTS, "cpu", ROUNDS)["no_faster"] == ["blocks.0"]


def test_a_part_that_only_one_network_has_is_not_compared(clock: Clock) -> None:
    dense, compressed = (BorderedDenoiser(Network(clock, (1.0, 1.0, 1.0))) for _ in range(2))
    compressed.denoiser.last = nn.Sequential()
    del compressed.denoiser.blocks[1]
    compressed.denoiser.forward = lambda sample, timestep, return_dict: (compressed.denoiser.blocks[0](sample),)
    assert list(compare_parts(dense, compressed, INPUTS, "cpu", ROUNDS)["parts"]) == ["blocks.0"]


def test_the_network_is_left_without_hooks(clock: Clock) -> None:
    network = Network(clock, (1.0, 1.0, 1.0))
    with pytest.raises(ZeroDivisionError), PartClock(network, "cpu"):
        _ = 1 / 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_parts_are_timed_in_every_precision_that_a_profile_takes(tmp_path: Path) -> None:
    """TF32 is no type of numbers but a way to multiply: a processor computes the same without it."""
    model = tiny_folder(tmp_path, **PLAIN)
    settings = ProfileSettings(dtype="tf32", batches=(1,), rounds={"seconds": 1e-9, "least": 6, "most": 6})
    assert "conv_in" in compare_network_parts(model, model, settings, "cpu")["parts"]
