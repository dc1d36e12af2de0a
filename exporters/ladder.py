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
from torch.utils.flop_counter import FlopCounterMode

from exporters.onnx import Dimensions, export_onnx
from exporters.overflow import RangeWatch, overflow_error
from exporters.parity import PSNR_FLOORS_DB, TOLERANCES, compare, compare_images
from exporters.resume import KeptCalls, is_whole
from exporters.settings import DtypeName, ExportSettings
from exporters.step import export_step
from toolkit.adapters.inputs import example_inputs, positional
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import files_sha256, read_json
from toolkit.diffusion.few_steps import own_steps
from toolkit.diffusion.sampling import sample
from toolkit.diffusion.step_loop import SCALE, UNCONDITIONAL, sample_steps
from toolkit.models.autoencoder import Autoencoder, open_autoencoder
from toolkit.models.conditioning import denoiser_inputs, find_conditioning
from toolkit.models.folder import ModelFolder, build_model, load_denoiser, load_scheduler
from toolkit.runners.base import known_runners, open_runner, precision_options, runner_reads, unavailable

NO_BF16 = "not run: ONNX Runtime has no bfloat16 matrix product on a CPU"
OWN_PRECISIONS = ("fp32", "bf16")  # of a runner that is told on opening what to compute in
GUIDANCE = 3.0  # the largest scale in the comparison of the step graph


class Ladder:
    """Exports one model and compares what was exported, on the CPU, with torch.

    Torch computes on ``device``. In the folder ``work`` lies what an interrupted export made: files that are whole, and
    the results of long calls; None keeps nothing.
    """

    def __init__(
        self, model: ModelFolder, settings: ExportSettings, name: str, *, device: str = "cpu", work: Path | None = None
    ) -> None:
        self.model, self.settings, self.name, self._device = model, settings, name, device
        self._kept = KeptCalls(work)
        self.scheduler = load_scheduler(model)
        self.loop_steps = own_steps(self.scheduler, settings.loop_steps)
        timesteps = self.scheduler.config.num_train_timesteps
        self.specs = denoiser_inputs(model, settings.tokens, timesteps=timesteps)

    def climb(self, path: Path, done: Callable[[], None]) -> dict[str, Any]:
        """Write ``path`` (.onnx and .json next to it); the comparison of each rung by its dtype is returned.

        ``done`` is called after each rung. Raises DtkError at the first rung out of tolerance, or before one whose
        precision would overflow, naming the layer.
        """
        by_rung: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix=".rung-", dir=path.parent) as scratch:
            for dtype in rungs(self.settings.dtype):
                self._check_range(dtype)
                lower = (self._kept.folder or Path(scratch)) / f"{self.name}-{dtype}.onnx"
                target = path if dtype == self.settings.dtype else lower
                if not is_whole(target):
                    self._export(target, dtype)
                by_rung[dtype] = self._compared(target, dtype)
                done()
        return by_rung

    def _compared(self, path: Path, dtype: DtypeName) -> dict[str, Any]:
        if dtype == "bf16":
            return {"not_run": NO_BF16}
        with closing(open_runner("onnxruntime", path)) as candidate:
            return self._climbed(self._kept.around(_identity(path), candidate), "ONNX", dtype)

    def in_other_runners(self, path: Path) -> dict[str, Any]:
        """The loop on the file at ``path``, against torch, in every other runner of ONNX and each precision it takes.

        By runner and precision (openvino:bf16). What a machine lacks, a runner refuses or is out of tolerance there is
        said in words under ``not_run``: the file itself is whole.
        """
        by_runner: dict[str, Any] = {}
        others = [name for name in known_runners() if runner_reads(name) == "onnx" and name != "onnxruntime"]
        for name in (name for name in others if not unavailable(name)):
            for dtype in OWN_PRECISIONS if precision_options(name, "fp32") else (self.settings.dtype,):
                least = max(dtype, self.settings.dtype, key=lambda one: TOLERANCES[one])
                try:
                    with closing(open_runner(name, path, **precision_options(name, dtype))) as runner:
                        images = self._images(runner, "ddim")
                    compared = self._compare_images(self._ddim_images, images, "ddim", f"ONNX in {name}", least)
                    by_runner[f"{name}:{dtype}"] = compared
                except DtkError as fault:
                    by_runner[f"{name}:{dtype}"] = {"not_run": str(fault).replace("\n ", ";")}
        return by_runner

    def _check_range(self, dtype: DtypeName) -> None:
        """Refuse a precision that does not reach as far as the numbers of the rungs so far."""
        kept = self.settings.keep_fp32
        if overflow := self._watch.overflow(dtype, kept):
            raise overflow_error(f"The {self.name} model", dtype, overflow, kept)

    def _export(self, path: Path, dtype: DtypeName) -> None:
        denoiser, settings = load_denoiser(self.model), self.settings
        export_onnx(
            denoiser,
            self.specs,
            path,
            dtype=dtype,
            opset=settings.known_opset,
            keep_fp32=settings.keep_fp32,
            dimensions=dynamic_sides(self.model) if settings.dynamic_size else None,
        )

    def step(self, path: Path) -> dict[str, Any]:
        """Write the step graph to ``path`` (.onnx and .json next to it) and compare its loop with torch's."""
        settings = self.settings
        if not is_whole(path):
            self._export_step(path)
        if settings.dtype == "bf16":
            return {"not_run": NO_BF16}
        description = read_json(path.with_suffix(".json"))
        with closing(open_runner("onnxruntime", path)) as stepper:
            step = self._kept.around(_identity(path), stepper)
            images = sample_steps(step, description, self._seeds, self.loop_steps, self._step_conditioning)
        expected = self._images(self._guided_reference, settings.sampler)
        return self._compare_images(expected, images, settings.sampler, "step graph", settings.dtype)

    def _export_step(self, path: Path) -> None:
        settings = self.settings
        export_step(
            load_denoiser(self.model),
            self.scheduler,
            self.specs,
            path,
            sampler=settings.sampler,
            dtype=settings.dtype,
            opset=settings.known_opset,
            keep_fp32=settings.keep_fp32,
            longest=max(settings.longest, self.loop_steps),
            guided=self.guided,
            batch=settings.batch,
        )

    def engine(self, plan: Path, onnx: Path) -> dict[str, Any]:
        """The last rung: the engine at ``plan``, built from ``onnx``, against torch float32, both on the GPU.

        Raises DtkError if it is out of tolerance. A loop of more images than the engine takes is not run.
        """
        rounded = self.settings.engine.tf32 and self.settings.dtype == "fp32"
        with closing(open_runner("tensorrt", plan, device="cuda", weights=onnx)) as candidate:
            return self._climbed(
                lambda *x, **given: candidate(*x, **given).cpu(),
                "TensorRT engine",
                "tf32" if rounded else self.settings.dtype,
            )

    def _climbed(self, candidate: Callable[..., torch.Tensor], form: str, dtype: str) -> dict[str, Any]:
        batch, engine = self.settings.batch, form != "ONNX"
        largest = batch.max if engine else min(batch.max, max(2, self._affordable(1)))
        predictions = compare(
            self.reference,
            candidate,
            self.specs,
            batches=sorted(size for size in {1, 2, largest} if not engine or batch.min <= size <= batch.max),
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
        return compared | {"sampler": sampler, "steps": self.loop_steps}

    @cached_property
    def _watch(self) -> RangeWatch:
        return RangeWatch(self.model, self._device)

    @cached_property
    def reference(self) -> Callable[..., torch.Tensor]:
        """The model in torch, float32."""
        return self._kept.around(f"torch {self.model.sha256}", self._watch, self._watch.magnitudes)

    @cached_property
    def _gmacs(self) -> float:
        """The work of one call with one image."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            first, named = positional(example_inputs(self.specs, 1, device="meta"))
            build_model(self.model.class_name, self.model.config)(*first, **named)
        return counter.get_total_flops() / 2e9

    def _affordable(self, calls: int) -> int:
        """How many images the settings allow if each takes so many calls of the model."""
        return int(self.settings.parity_gmacs / (self._gmacs * calls))

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
        return self._conditioning | nulls | {SCALE: scales}

    def _guided_reference(self, sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        """Guidance by two calls of the reference (Ho and Salimans 2022, equation 6)."""
        towards = self.reference(sample, timestep, **given)
        if not self.guided:
            return towards
        inputs = self._step_conditioning
        without = self.reference(sample, timestep, **{name: inputs[f"{UNCONDITIONAL}{name}"] for name in given})
        return without + inputs[SCALE][:, None, None, None] * (towards - without)

    @cached_property
    def _seeds(self) -> range:
        count = max(1, min(self.settings.loop_images, self._affordable(self.loop_steps)))
        return range(self.settings.seed, self.settings.seed + count)

    @cached_property
    def _ddim_images(self) -> torch.Tensor:
        return self._images(self.reference, "ddim")

    def _images(self, runner: Callable[..., torch.Tensor], sampler: str) -> torch.Tensor:
        """Images or latents of the whole sampling loop, the same noise and conditioning for every runner."""
        shape, steps = self.specs["sample"].shape, self.loop_steps
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


def _identity(path: Path) -> str:
    """What the results of an exported file depend on besides its inputs."""
    return f"onnxruntime {files_sha256(read_json(path.with_suffix('.json'))['sha256'])}"


def rungs(dtype: DtypeName) -> list[DtypeName]:
    """The precisions that are exported and compared on the way to ``dtype``."""
    return ["fp32"] if dtype == "fp32" else ["fp32", dtype]
