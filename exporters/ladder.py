"""The parity ladder: torch float32, then ONNX float32, then ONNX in the precision that was requested.

Each rung is held against torch float32, so a fault of the export is distinguished from what half precision costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from exporters.onnx import Dimensions, export_onnx
from exporters.overflow import RangeWatch, overflow_error
from exporters.parity import PSNR_FLOORS_DB, TOLERANCES, compare, compare_images
from exporters.settings import DtypeName, ExportSettings
from exporters.step import UNCONDITIONAL, export_step, run_steps
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, UsageError
from toolkit.diffusion.sampling import sample
from toolkit.models.autoencoder import Autoencoder, open_autoencoder
from toolkit.models.conditioning import denoiser_inputs, find_conditioning
from toolkit.models.folder import ModelFolder, load_denoiser, load_scheduler
from toolkit.runners.base import open_runner

NO_BF16 = "not run: ONNX Runtime has no bfloat16 matrix product on a CPU"
GUIDANCE = 3.0  # the largest scale in the comparison of the step graph


class Ladder:
    """Exports one model and compares what was exported, on the CPU, with torch."""

    def __init__(self, model: ModelFolder, settings: ExportSettings, name: str) -> None:
        self.model, self.settings, self.name = model, settings, name
        self.scheduler = load_scheduler(model)
        timesteps = self.scheduler.config.num_train_timesteps
        self.specs = denoiser_inputs(model, settings.tokens, timesteps=timesteps)

    def climb(self, path: Path, done: Callable[[], None]) -> dict[str, Any]:
        """Write ``path`` (.onnx and .json next to it); the comparison of each rung by its dtype is returned.

        ``done`` is called after each rung. Raises DtkError at the first rung out of tolerance, or before one whose
        precision would overflow, naming the layer.
        """
        by_rung: dict[str, Any] = {}
        for dtype in rungs(self.settings.dtype):
            self._check_range(dtype)
            with tempfile.TemporaryDirectory(prefix=".rung-", dir=path.parent) as scratch:
                target = path if dtype == self.settings.dtype else Path(scratch) / path.name
                self._export(target, dtype)
                by_rung[dtype] = {"not_run": NO_BF16} if dtype == "bf16" else self._compare(target, dtype)
            done()
        return by_rung

    def _check_range(self, dtype: DtypeName) -> None:
        """Refuse a precision that does not reach as far as the numbers of the rungs so far."""
        kept = self.settings.keep_fp32
        if overflow := self.reference.overflow(dtype, kept):
            raise overflow_error(f"The {self.name} model", dtype, overflow, kept)

    def _export(self, path: Path, dtype: DtypeName) -> None:
        denoiser, settings = load_denoiser(self.model), self.settings
        export_onnx(
            denoiser,
            self.specs,
            path,
            dtype=dtype,
            opset=settings.opset,
            keep_fp32=settings.keep_fp32,
            dimensions=dynamic_sides(self.model) if settings.dynamic_size else None,
        )

    def step(self, path: Path) -> dict[str, Any]:
        """Write the step graph to ``path`` (.onnx and .json next to it) and compare its loop with torch's."""
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
            guided=self.guided,
            batch=settings.batch,
        )
        if settings.dtype == "bf16":
            return {"not_run": NO_BF16}
        schedule = description["schedules"][str(settings.loop_steps)]
        with closing(open_runner("onnxruntime", path)) as stepper:
            shape, noisy = self.specs["sample"].shape, settings.sampler == "ddpm"
            images = run_steps(stepper, schedule, self._seeds, shape, self._step_conditioning, noisy=noisy)
        expected = self._images(self._guided_reference, settings.sampler)
        return self._compare_images(expected, images, settings.sampler, "step graph", settings.dtype)

    def engine(self, plan: Path) -> dict[str, Any]:
        """The last rung: the engine at ``plan`` against torch float32, on the GPU it was built for.

        Raises DtkError if it is out of tolerance. A loop of more images than the engine takes is not run.
        """
        rounded = self.settings.engine.tf32 and self.settings.dtype == "fp32"
        with closing(open_runner("tensorrt", plan, device="cuda")) as candidate:
            return self._climbed(
                lambda *x, **given: candidate(*x, **given).cpu(),
                "TensorRT engine",
                "tf32" if rounded else self.settings.dtype,
            )

    def _compare(self, path: Path, dtype: DtypeName) -> dict[str, Any]:
        with closing(open_runner("onnxruntime", path)) as candidate:
            return self._climbed(candidate, "ONNX", dtype)

    def _climbed(self, candidate: Callable[..., torch.Tensor], form: str, dtype: str) -> dict[str, Any]:
        batch, engine = self.settings.batch, form != "ONNX"
        predictions = compare(
            self.reference,
            candidate,
            self.specs,
            batches=sorted(size for size in {1, 2, batch.max} if not engine or batch.min <= size <= batch.max),
            tolerance=TOLERANCES[dtype],
            name=f"The {self.name} model as {form} {dtype}",
            seed=self.settings.seed,
        )
        if engine and not batch.min <= len(self._seeds) <= batch.max:
            return {"predictions": predictions, "loop": {"not_run": f"{len(self._seeds)} images, built for {batch}"}}
        images = self._images(candidate, "ddim")
        return {
            "predictions": predictions,
            "loop": self._compare_images(self._ddim_images, images, "ddim", form, dtype),
        }

    def _compare_images(
        self, expected: torch.Tensor, actual: torch.Tensor, sampler: str, form: str, dtype: str
    ) -> dict[str, Any]:
        name = f"The {self.name} model as {form} {dtype}"
        if self._autoencoder:
            expected, actual = (self._autoencoder.decode(latents) for latents in (expected, actual))
        compared = compare_images(expected, actual, floor_db=PSNR_FLOORS_DB[dtype], name=name)
        return compared | {"sampler": sampler, "steps": self.settings.loop_steps}

    @cached_property
    def reference(self) -> RangeWatch:
        """The model in torch, float32, on the CPU."""
        return RangeWatch(self.model)

    @cached_property
    def _autoencoder(self) -> Autoencoder | None:
        """What makes images of a latent model's latents."""
        return open_autoencoder(self.model)

    @cached_property
    def _conditioning(self) -> dict[str, torch.Tensor]:
        inputs = example_inputs(self.specs, len(self._seeds), seed=self.settings.seed)
        return {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}

    @property
    def guided(self) -> bool:
        """Whether the step graph takes a guidance scale: if the model has a condition and a null one."""
        try:
            return find_conditioning(self.model).has_null
        except DtkError:  # a bare denoiser: nothing next to it says
            return False

    @cached_property
    def _step_conditioning(self) -> dict[str, torch.Tensor]:
        """The step graph's conditioning; if guided also a scale per image and, as the null condition, other values."""
        if not self.guided:
            return self._conditioning
        null = example_inputs(self.specs, len(self._seeds), seed=self.settings.seed + 1)
        scales = torch.linspace(0.0, GUIDANCE, len(self._seeds))
        nulls = {f"{UNCONDITIONAL}{name}": null[name] for name in self._conditioning}
        return self._conditioning | nulls | {"guidance_scale": scales}

    def _guided_reference(self, sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        """Guidance by two calls of the reference (Ho and Salimans 2022, equation 6)."""
        towards = self.reference(sample, timestep, **given)
        if not self.guided:
            return towards
        inputs = self._step_conditioning
        without = self.reference(sample, timestep, **{name: inputs[f"{UNCONDITIONAL}{name}"] for name in given})
        return without + inputs["guidance_scale"][:, None, None, None] * (towards - without)

    @property
    def _seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.loop_images)

    @cached_property
    def _ddim_images(self) -> torch.Tensor:
        return self._images(self.reference, "ddim")

    def _images(self, runner: Callable[..., torch.Tensor], sampler: str) -> torch.Tensor:
        """Images or latents of the whole sampling loop, the same noise and conditioning for every runner."""
        shape, steps = self.specs["sample"].shape, self.settings.loop_steps
        return sample(runner, self.scheduler, self._seeds, shape, steps, sampler, conditioning=self._conditioning)


def dynamic_sides(model: ModelFolder) -> Dimensions:
    """Height and width of the denoiser's sample: multiples of what its levels halve.

    Raises UsageError for a class whose position embedding is of one size.
    """
    levels = model.config.get("block_out_channels")
    if levels is None:
        raise UsageError(f"A {model.class_name} is of one height and width.", do="leave out --dynamic-size")
    factor = 2 ** (len(levels) - 1)
    return {"sample": {2: (factor, "height_blocks"), 3: (factor, "width_blocks")}}


def rungs(dtype: DtypeName) -> list[DtypeName]:
    """The precisions that are exported and compared on the way to ``dtype``."""
    return ["fp32"] if dtype == "fp32" else ["fp32", dtype]
