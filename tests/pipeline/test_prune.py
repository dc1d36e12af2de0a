"""What the whole prune stage promises, whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from tests.tiny import PLAIN, tiny_folder
from toolkit.core.noise import generator
from toolkit.core.run_folder import RunFolder
from toolkit.data.images import Images
from toolkit.pipeline.prune import prune
from toolkit.pruning.settings import PruneSettings

ASKED = {"target": "macs=0.45", "align": 4, "calibration_images": 3, "threshold": 0.5}


def images(size: int = 40) -> Images:
    pixels = generator("stage images", 0).integers(0, 256, (size, 8, 8, 3), dtype=np.uint8)
    return Images("test", (3, 8, 8), "0" * 64, tuple(range(size)), lambda number: pixels[number])


@contextmanager
def batches() -> Iterator[list[int]]:
    """The batch sizes that any UNet is called with."""
    seen: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet2DModel) and inputs and inputs[0].device.type != "meta":
            seen.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reconstruct", "score_timesteps"), [(False, None), pytest.param(True, 4, marks=pytest.mark.slow)]
)
def test_no_more_images_at_once_than_were_asked(tmp_path: Path, reconstruct: bool, score_timesteps: int | None) -> None:
    """From the first score to the last loss; and what is chosen is the same."""
    dense, plans = tiny_folder(tmp_path / "model", **PLAIN), []
    for size in (2, None):
        asked = {**ASKED, "reconstruct": reconstruct, "score_timesteps": score_timesteps}
        settings = PruneSettings(**asked, calibration_batch_size=size)
        with batches() as seen:
            plans.append(prune(RunFolder.create(tmp_path / str(size)), settings, dense, images()))
        assert max(seen) == (size or ASKED["calibration_images"])
    one, other = plans
    assert one["widths"] == other["widths"]
    assert one["held_out_loss"] == pytest.approx(other["held_out_loss"], rel=1e-4)
