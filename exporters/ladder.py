"""The parity ladder: torch float32, then ONNX float32, then ONNX in the precision that was asked for.

Each rung is held against torch float32, so a fault of the export is told from what half precision costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exporters.config import DtypeName, ExportSettings
from exporters.onnx import export_onnx
from exporters.parity import PSNR_FLOORS_DB, TOLERANCES, compare, compare_images
from toolkit.denoiser_inputs import example_inputs, input_specs
from toolkit.models import ModelFolder, load_denoiser, load_scheduler
from toolkit.runners.base import Runner
from toolkit.runners.registry import open_runner
from toolkit.sampling import sample

NO_BF16 = "not run: ONNX Runtime has no bfloat16 matrix product on a CPU"


class Ladder:
    """Exports one model and compares what was exported, on the CPU, with torch."""

    def __init__(self, model: ModelFolder, settings: ExportSettings, name: str) -> None:
        self.model, self.settings, self.name = model, settings, name
        self.scheduler = load_scheduler(model)
        self.specs = input_specs(
            model.class_name,
            model.config,
            timesteps=self.scheduler.config.num_train_timesteps,
            tokens=settings.tokens,
        )

    def climb(self, path: Path, done: Callable[[], None]) -> dict[str, Any]:
        """Write ``path`` (.onnx and .json beside it); the comparison of each rung by its dtype is returned.

        ``done`` is called after each rung. Raises DtkError at the first rung out of tolerance.
        """
        reference = open_runner("torch", self.model)
        images = self._images(reference)
        found: dict[str, Any] = {}
        for dtype in rungs(self.settings.dtype):
            with tempfile.TemporaryDirectory(prefix=".rung-", dir=path.parent) as scratch:
                target = path if dtype == self.settings.dtype else Path(scratch) / path.name
                export_onnx(load_denoiser(self.model), self.specs, target, dtype=dtype, opset=self.settings.opset)
                found[dtype] = (
                    {"not_run": NO_BF16} if dtype == "bf16" else self._compare(reference, target, images, dtype)
                )
            done()
        return found

    def _compare(self, reference: Runner, path: Path, images: torch.Tensor, dtype: DtypeName) -> dict[str, Any]:
        candidate = open_runner("onnxruntime", path)
        name = f"The {self.name} model as ONNX {dtype}"
        batches = sorted({1, 2, self.settings.batch.max})
        try:
            predictions = compare(
                reference,
                candidate,
                self.specs,
                batches=batches,
                tolerance=TOLERANCES[dtype],
                name=name,
                seed=self.settings.seed,
            )
            loop = compare_images(images, self._images(candidate), floor_db=PSNR_FLOORS_DB[dtype], name=name)
        finally:
            candidate.close()
        return {"predictions": predictions, "loop": loop | {"sampler": "ddim", "steps": self.settings.loop_steps}}

    def _images(self, runner: Runner) -> torch.Tensor:
        """Images of the whole sampling loop, the same noise and conditioning for every runner."""
        seeds = range(self.settings.seed, self.settings.seed + self.settings.loop_images)
        inputs = example_inputs(self.specs, len(seeds), seed=self.settings.seed)
        conditioning = {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}
        shape = self.specs["sample"].shape
        return sample(runner, self.scheduler, seeds, shape, self.settings.loop_steps, conditioning=conditioning)


def rungs(dtype: DtypeName) -> list[DtypeName]:
    """The precisions that are exported and compared on the way to ``dtype``."""
    return ["fp32"] if dtype == "fp32" else ["fp32", dtype]
