"""The measured loop: as many calls of a model as it has steps, and of the batch that was asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from profiles.loop import Loops, Taken
from profiles.settings import ProfileSettings
from tests.exported import specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.runners.base import RunnerSpec

TAKEN = {"dense": Taken(5, 3.0), "compressed": Taken(2, 1.0)}


class Counting:
    """A denoiser that keeps the size of each batch it was called with."""

    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(sample))
        return sample


@pytest.mark.parametrize("which", TAKEN)
def test_a_loop_calls_its_denoiser_once_a_step(which: str) -> None:
    model, runner = tiny_model(), Counting()
    specs = specs_of(model)
    runners: Any = SimpleNamespace(
        specs=specs, runner=lambda spec, which, batch: runner, inputs=lambda rows: example_inputs(specs, rows)
    )
    loop = Loops(model, runners, ProfileSettings(), TAKEN).timed(RunnerSpec("torch"), which, 3)
    assert loop.images == 3
    loop.call()
    assert runner.batches == [{"dense": 6, "compressed": 3}[which]] * TAKEN[which].steps
