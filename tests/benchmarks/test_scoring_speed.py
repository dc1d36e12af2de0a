"""The benchmark of scoring: the plain loop's gradients are dtk's, so that their times compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scoring_speed
from tests.tiny import tiny_folder
from toolkit.core.noise import generator


@pytest.mark.slow
def test_both_loops_take_the_same_gradients(tmp_path: Path) -> None:
    pixels = generator("scoring speed", 0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels)
    short = ["--images", "4", "--timesteps", "3", "--seconds", "0.01", "--rounds", "6"]
    source = ["--data", str(tmp_path / "data.npz"), "--output", str(tmp_path / "found.json")]
    scoring_speed.main([str(tiny_folder(tmp_path / "model").root), *source, *short])
    found = json.loads((tmp_path / "found.json").read_text())["dtk"]
    assert list(found) == list(scoring_speed.EFFORTS)
    for name, row in found.items():
        assert row["rounds"] == 6 and row["times_as_fast"]["low"] <= row["times_as_fast"]["high"]
        assert 0 <= row["distance_of_gradients"] < (0.1 if "bf16" in name else 1e-4)
