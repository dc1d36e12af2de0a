"""The engine's rung of the ladder, with ONNX Runtime in the engine's place: what a GPU computes is not known here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exporters import ladder
from exporters.settings import ExportSettings
from tests.exported import exported, tiny_model
from toolkit.core.errors import DtkError
from toolkit.runners.onnxruntime import OnnxRuntimeRunner

pytestmark = pytest.mark.slow
SETTINGS = {"batch": "1:2:4", "loop_steps": 2, "loop_images": 2}


def rung(monkeypatch: pytest.MonkeyPatch, fault: Callable[[torch.Tensor], torch.Tensor], **changes: Any) -> Any:
    class Engine(OnnxRuntimeRunner):
        def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
            assert batch.min <= len(sample) <= batch.max, "an engine takes no other batch"
            return fault(super().__call__(sample, timestep, **conditioning))

    def opened(name: str, source: Path, *, device: str = "cpu", weights: Path) -> Engine:
        assert (name, source.name, weights.name) == ("tensorrt", "dense.plan", "dense.onnx")
        assert device.startswith("cuda"), "TensorRT computes on a GPU alone"
        return Engine(exported())

    monkeypatch.setattr(ladder, "open_runner", opened)
    settings = ExportSettings.model_validate(SETTINGS | changes)
    batch = settings.batch
    return ladder.Ladder(tiny_model(), settings, "dense").engine(Path("dense.plan"), Path("dense.onnx"))


def test_predictions_and_the_whole_loop_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rung(monkeypatch, lambda prediction: prediction)
    assert set(found["predictions"]["by_batch"]) == {"1", "2", "4"}
    assert found["predictions"]["worst"]["relative_error"] < 1e-5
    assert found["loop"]["steps"] == 2 and len(found["loop"]["psnr_db"]) == 2


def test_an_engine_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DtkError, match="The dense model as TensorRT engine fp32 does not compute what torch computes"):
        rung(monkeypatch, lambda prediction: 1.01 * prediction)


@pytest.mark.parametrize(("batch", "sizes"), [("4:4:4", {"4"}), ("1:1:1", {"1"})])
def test_only_batches_it_was_built_for_are_asked(monkeypatch: pytest.MonkeyPatch, batch: str, sizes: set[str]) -> None:
    found = rung(monkeypatch, lambda prediction: prediction, batch=batch)
    assert set(found["predictions"]["by_batch"]) == sizes
    assert found["loop"] == {"not_run": f"2 images, built for {batch}"}
