"""The throughput benchmark: the plain loop trains, and the program compares it with recovery's."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks import throughput
from tests.tiny import tiny_folder
from toolkit.core.noise import generator
from toolkit.data.open import open_images
from toolkit.recovery.settings import RecoverSettings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pixels = generator("throughput", 0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels)
    return tmp_path / "data.npz"


@pytest.mark.slow
def test_the_plain_loop_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)  # the loop of diffusers draws its noise and timesteps from here
    losses: list[float] = []
    np.savez(tmp_path / "grey.npz", images=np.full((12, 8, 8, 3), 128, np.uint8))  # all that is not grey is noise

    def noted(predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        loss = (predicted - noise).square().mean()
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(functional, "mse_loss", noted)
    settings = RecoverSettings(batch_size=4, learning_rate=1e-2, warmup_steps=1)
    images = open_images(tmp_path / "grey.npz", (3, 8, 8))
    list(islice(throughput.plain(tiny_folder(tmp_path / "model"), images, settings, "cpu"), 30))
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_pictures_are_what_recovery_reads(data: Path) -> None:
    images = open_images(data, (3, 8, 8))
    pictures = throughput.Pictures(images)
    np.testing.assert_allclose(np.stack([pictures[n] for n in range(len(pictures))]), images.read(range(12)), atol=1e-6)


@pytest.mark.slow
def test_every_mix_is_compared_with_it(tmp_path: Path, data: Path) -> None:
    folder = tiny_folder(tmp_path / "model").root
    short = ["--batch", "4", "--steps", "1", "--seconds", "0.01", "--rounds", "6"]
    throughput.main([str(folder), "--data", str(data), "--output", str(tmp_path / "found.json"), *short])
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["mixes"]) == ["noise", "distillation"]
    for mix in found["mixes"].values():
        faster = mix["times_as_fast"]
        assert mix["rounds"] == 6 and 0 < faster["low"] <= faster["value"] <= faster["high"]
