"""The whole sampling loop as one CUDA graph: one launch per image batch, nothing between the steps.

Shapes, steps and sampler are fixed when the graph is made; noise and conditioning are what changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from toolkit.core.errors import UsageError
from toolkit.core.noise import sample_noise
from toolkit.diffusion.sampling import Predict, build_scheduler, denoise
from toolkit.runners.cuda_graph import Capture, CapturedCall, capture

CAPTURED = ("ddim", "dpm-solver")
"""The samplers whose steps a graph can repeat: diffusers draws noise inside the ancestral step, and UniPC's step copies
tensors from the host."""


class LoopGraph:
    """``sample`` of toolkit.diffusion.sampling for one batch size, captured.

    ``predict`` launches the denoiser on ``device`` and waits for nothing; ``conditioning`` holds example tensors of the
    shapes to come. Raises UsageError for a sampler that is not in CAPTURED.
    """

    def __init__(
        self,
        predict: Predict,
        scheduler: Any,
        batch: int,
        shape: tuple[int, ...],
        steps: int,
        sampler: str = "ddim",
        *,
        device: str = "cuda",
        conditioning: Mapping[str, torch.Tensor] | None = None,
        capture: Capture = capture,
    ) -> None:
        if sampler not in CAPTURED:
            raise UsageError(
                f"The sampler {sampler} cannot be captured as one CUDA graph.",
                found="its steps draw noise, or copy from the host",
                expected=f"one of {', '.join(CAPTURED)}",
            )
        self.device, self._shape = device, shape
        first = build_scheduler(scheduler, sampler, steps)
        timesteps = [int(timestep) for timestep in first.timesteps]
        batched = [torch.full((batch,), timestep, dtype=torch.int64, device=device) for timestep in timesteps]

        def loop(noise: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
            stepper = build_scheduler(scheduler, sampler, steps)  # on the CPU: reading it must not wait for the GPU
            steps_to_take = zip(timesteps, batched, strict=True)
            return denoise(predict, stepper, sampler, noise * stepper.init_noise_sigma, steps_to_take, given)

        examples = {"noise": torch.zeros((batch, *shape), device=device), **(conditioning or {})}
        with torch.no_grad():
            self._captured = CapturedCall(loop, examples, device, capture)

    def __call__(self, seeds: Sequence[int], conditioning: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """One image per seed, as ``sample`` makes them: float32 (B, C, H, W)."""
        noise = torch.from_numpy(sample_noise(seeds, 0, self._shape)).to(self.device)
        with torch.no_grad():
            return self._captured({"noise": noise, **(conditioning or {})})
