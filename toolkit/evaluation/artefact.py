"""What makes samples: the model itself in torch, or what was exported of it in the runner that will serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.files import value_sha256
from toolkit.diffusion.guidance import guided
from toolkit.diffusion.sampling import sample
from toolkit.diffusion.step_loop import guided_inputs, refusal, sample_steps
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.runners.base import Runner, open_runner, unavailable

if TYPE_CHECKING:
    import torch

Conditioning = Mapping[str, "torch.Tensor"]
Draw = Callable[[Sequence[int], Conditioning], "torch.Tensor"]
"""Seeds and conditioning, one row a seed, to samples (B, C, H, W)."""


@dataclass(frozen=True)
class SamplingSettings:
    """How images are made; image i comes from seed + i, so neither count nor batch size changes it."""

    sampler: str
    steps: int
    seed: int
    batch_size: int = 64
    guidance: float = 1.0

    def key(
        self, model: ModelFolder, conditions: SampleConditions, device: str, artefact: Artefact | None = None
    ) -> str:
        """Names the samples: equal keys, equal images. ``artefact``: what makes them, if it is not torch."""
        place = [device.split(":")[0], conditions.key]
        if artefact and artefact.sha256:
            place.append(artefact.sha256)
        return value_sha256([model.sha256, self.sampler, self.steps, self.seed, self.guidance, *place])


@dataclass(frozen=True)
class Artefact:
    """A denoiser as it is deployed: ``source`` in a runner, and if it was exported as a step graph, that as ``step``.

    ``name`` is the runner's with the precision (openvino:bf16), ``options`` make the runner compute in it.
    ``described`` is what the export says of the step graph. ``sha256`` stands for the files and for what runs them
    here; None for torch itself in float32.
    """

    name: str
    runner: str
    source: ModelFolder | Path
    options: Mapping[str, str] = field(default_factory=dict)
    step: Path | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    def device(self, wanted: str) -> str:
        """``wanted``, or the processor if this runner computes only there."""
        return "cpu" if unavailable(self.runner, wanted) else wanted

    def loop(self, plan: SamplingSettings) -> str:
        """What does the sampler's arithmetic: the step graph, or the scheduler around the denoiser and why."""
        if self.step is None:
            return "scheduler"
        reason = refusal(self.described, plan.sampler, plan.steps)
        return f"scheduler: {reason}" if reason else "step graph"

    def open(self, model: ModelFolder, plan: SamplingSettings, device: str, null: Conditioning) -> tuple[Runner, Draw]:
        """The runner on ``device``, to be closed, and what samples with it; ``null``: the null condition, one row."""
        if self.step is not None and self.loop(plan) == "step graph":
            return self._by_steps(self.step, plan, device, null)
        runner, scheduler = open_runner(self.runner, self.source, device=device, **self.options), load_scheduler(model)
        predict, shape = guided(runner, null, plan.guidance), model.input_specs()["sample"].shape

        def draw(seeds: Sequence[int], conditioning: Conditioning) -> torch.Tensor:
            how: dict[str, Any] = {"device": runner.device, "conditioning": conditioning}
            return sample(predict, scheduler, seeds, shape, plan.steps, plan.sampler, **how)

        return runner, draw

    def _by_steps(self, step: Path, plan: SamplingSettings, device: str, null: Conditioning) -> tuple[Runner, Draw]:
        runner = open_runner(self.runner, step, device=device, **self.options)

        def draw(seeds: Sequence[int], conditioning: Conditioning) -> torch.Tensor:
            inputs = guided_inputs(self.described, conditioning, null, plan.guidance)
            return sample_steps(runner, self.described, seeds, plan.steps, inputs, device=runner.device)

        return runner, draw
