"""The parity ladder: torch float32, then ONNX float32, then ONNX in the precision that was requested.

Each rung is held against torch float32, so a fault of the export is distinguished from what half precision costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from exporters.onnx import Dimensions, export_onnx
from exporters.overflow import overflow_error
from exporters.parity import PSNR_FLOORS_DB, TOLERANCES, compare, compare_images
from exporters.reference import Reference
from exporters.resume import KeptCalls, is_whole
from exporters.settings import DtypeName, ExportSettings
from exporters.step import export_step
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import files_sha256, read_json
from toolkit.diffusion.step_loop import sample_steps
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import known_runners, open_runner, precision_options, runner_reads, unavailable

NO_BF16 = "not run: ONNX Runtime has no bfloat16 matrix product on a CPU"
OWN_PRECISIONS = ("fp32", "bf16")  # of a runner that is told on opening what to compute in


class Ladder:
    """Exports one model and compares what was exported, on the CPU, with torch.

    Torch computes on ``device``. In the folder ``work`` lies what an interrupted export made: files that are whole, and
    the results of long calls; None keeps nothing.
    """

    def __init__(
        self, model: ModelFolder, settings: ExportSettings, name: str, *, device: str = "cpu", work: Path | None = None
    ) -> None:
        self.model, self.settings, self.name = model, settings, name
        self._kept = KeptCalls(work)
        self.reference = Reference(model, settings, device, self._kept)

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
                        by_runner[f"{name}:{dtype}"] = self._loop(runner, f"ONNX in {name}", least)
                except DtkError as fault:
                    by_runner[f"{name}:{dtype}"] = {"not_run": str(fault).replace("\n ", ";")}
        return by_runner

    def _check_range(self, dtype: DtypeName) -> None:
        """Refuse a precision that does not reach as far as the numbers of the rungs so far."""
        kept = self.settings.keep_fp32
        if overflow := self.reference.watch.overflow(dtype, kept):
            raise overflow_error(f"The {self.name} model", dtype, overflow, kept)

    def _export(self, path: Path, dtype: DtypeName) -> None:
        denoiser, settings = load_denoiser(self.model), self.settings
        export_onnx(
            denoiser,
            self.reference.specs,
            path,
            dtype=dtype,
            opset=settings.known_opset,
            keep_fp32=settings.keep_fp32,
            dimensions=dynamic_sides(self.model) if settings.dynamic_size else None,
        )

    def step(self, path: Path) -> dict[str, Any]:
        """Write the step graph to ``path`` (.onnx and .json next to it) and compare its loop with torch's."""
        settings, reference = self.settings, self.reference
        if not is_whole(path):
            self._export_step(path)
        if settings.dtype == "bf16":
            return {"not_run": NO_BF16}
        description = read_json(path.with_suffix(".json"))
        with closing(open_runner("onnxruntime", path)) as stepper:
            step = self._kept.around(_identity(path), stepper)
            images = sample_steps(step, description, reference.seeds, reference.loop_steps, reference.step_conditioning)
        expected = reference.guided_images(settings.sampler)
        return self._compare_images(expected, images, settings.sampler, "step graph", settings.dtype)

    def _export_step(self, path: Path) -> None:
        settings, reference = self.settings, self.reference
        export_step(
            load_denoiser(self.model),
            reference.scheduler,
            reference.specs,
            path,
            sampler=settings.sampler,
            dtype=settings.dtype,
            opset=settings.known_opset,
            keep_fp32=settings.keep_fp32,
            longest=max(settings.longest, reference.loop_steps),
            guided=reference.is_guided,
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
        batch, engine, reference = self.settings.batch, form != "ONNX", self.reference
        largest = batch.max if engine else min(batch.max, max(2, reference.affordable(1)))
        predictions = compare(
            reference,
            candidate,
            reference.specs,
            batches=sorted(size for size in {1, 2, largest} if not engine or batch.min <= size <= batch.max),
            tolerance=TOLERANCES[dtype],
            name=f"The {self.name} model as {form} {dtype}",
            seed=self.settings.seed,
        )
        if engine and not batch.min <= (count := len(reference.seeds)) <= batch.max:
            return {"predictions": predictions, "loop": {"not_run": f"{count} images, built for {batch}"}}
        return {"predictions": predictions, "loop": self._loop(candidate, form, dtype)}

    def _loop(self, candidate: Callable[..., torch.Tensor], form: str, dtype: str) -> dict[str, Any]:
        images = self.reference.images(candidate, "ddim")
        return self._compare_images(self.reference.ddim_images, images, "ddim", form, dtype)

    def _compare_images(
        self, expected: torch.Tensor, actual: torch.Tensor, sampler: str, form: str, dtype: str
    ) -> dict[str, Any]:
        name = f"The {self.name} model as {form} {dtype}"
        expected, actual = (self.reference.shown(images) for images in (expected, actual))
        compared = compare_images(expected, actual, floor_db=PSNR_FLOORS_DB[dtype], name=name)
        return compared | {"sampler": sampler, "steps": self.reference.loop_steps}


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
