"""The parity ladder: torch float32, then ONNX float32, then ONNX in the precision that was asked for.

Each rung is held against torch float32, so a fault of the export is told from what half precision costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from exporters.config import DtypeName, ExportSettings
from exporters.onnx import export_onnx
from exporters.overflow import RangeWatch, overflow_error
from exporters.parity import PSNR_FLOORS_DB, TOLERANCES, compare, compare_images
from exporters.step import export_step, run_steps
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

        ``done`` is called after each rung. Raises DtkError at the first rung out of tolerance, or before one whose
        precision would overflow, naming the layer.
        """
        found: dict[str, Any] = {}
        for dtype in rungs(self.settings.dtype):
            self._check_range(dtype)
            with tempfile.TemporaryDirectory(prefix=".rung-", dir=path.parent) as scratch:
                target = path if dtype == self.settings.dtype else Path(scratch) / path.name
                self._export(target, dtype)
                found[dtype] = {"not_run": NO_BF16} if dtype == "bf16" else self._compare(target, dtype)
            done()
        return found

    def _check_range(self, dtype: DtypeName) -> None:
        """Refuse a precision that does not reach as far as the numbers of the rungs so far."""
        kept = self.settings.keep_fp32
        if overflow := self.reference.overflow(dtype, kept):
            raise overflow_error(f"The {self.name} model", dtype, overflow, kept)

    def _export(self, path: Path, dtype: DtypeName) -> None:
        denoiser, settings = load_denoiser(self.model), self.settings
        export_onnx(denoiser, self.specs, path, dtype=dtype, opset=settings.opset, keep_fp32=settings.keep_fp32)

    def step(self, path: Path) -> dict[str, Any]:
        """Write the step graph to ``path`` (.onnx and .json beside it) and compare its loop with torch's."""
        settings = self.settings
        description = export_step(
            load_denoiser(self.model),
            self.scheduler,
            self.specs,
            path,
            sampler=settings.sampler,
            dtype=settings.dtype,
            opset=settings.opset,
            keep_fp32=settings.keep_fp32,
            longest=max(settings.longest, settings.loop_steps),
        )
        if settings.dtype == "bf16":
            return {"not_run": NO_BF16}
        schedule = description["schedules"][str(settings.loop_steps)]
        with closing(open_runner("onnxruntime", path)) as stepper:
            shape, noisy = self.specs["sample"].shape, settings.sampler == "ddpm"
            images = run_steps(stepper, schedule, self._seeds, shape, self._conditioning, noisy=noisy)
        expected = self._images(self.reference, "ddpm") if noisy else self._ddim_images
        return self._compare_images(expected, images, settings.sampler, "step graph", settings.dtype)

    def _compare(self, path: Path, dtype: DtypeName) -> dict[str, Any]:
        with closing(open_runner("onnxruntime", path)) as candidate:
            predictions = compare(
                self.reference,
                candidate,
                self.specs,
                batches=sorted({1, 2, self.settings.batch.max}),
                tolerance=TOLERANCES[dtype],
                name=f"The {self.name} model as ONNX {dtype}",
                seed=self.settings.seed,
            )
            images = self._images(candidate, "ddim")
        loop = self._compare_images(self._ddim_images, images, "ddim", "ONNX", dtype)
        return {"predictions": predictions, "loop": loop}

    def _compare_images(
        self, expected: torch.Tensor, got: torch.Tensor, sampler: str, form: str, dtype: DtypeName
    ) -> dict[str, Any]:
        name = f"The {self.name} model as {form} {dtype}"
        compared = compare_images(expected, got, floor_db=PSNR_FLOORS_DB[dtype], name=name)
        return compared | {"sampler": sampler, "steps": self.settings.loop_steps}

    @cached_property
    def reference(self) -> RangeWatch:
        """The model in torch, float32, on the CPU."""
        return RangeWatch(self.model)

    @cached_property
    def _conditioning(self) -> dict[str, torch.Tensor]:
        inputs = example_inputs(self.specs, len(self._seeds), seed=self.settings.seed)
        return {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}

    @property
    def _seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.loop_images)

    @cached_property
    def _ddim_images(self) -> torch.Tensor:
        return self._images(self.reference, "ddim")

    def _images(self, runner: Runner, sampler: str) -> torch.Tensor:
        """Images of the whole sampling loop, the same noise and conditioning for every runner."""
        shape, steps = self.specs["sample"].shape, self.settings.loop_steps
        return sample(runner, self.scheduler, self._seeds, shape, steps, sampler, conditioning=self._conditioning)


def rungs(dtype: DtypeName) -> list[DtypeName]:
    """The precisions that are exported and compared on the way to ``dtype``."""
    return ["fp32"] if dtype == "fp32" else ["fp32", dtype]
