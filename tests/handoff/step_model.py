"""A run with a step graph, made from the embedded default and the equations of DDIM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exporters.onnx import describe
from toolkit import models
from toolkit.files import write_json
from toolkit.run_folder import Request, Run
from toolkit.sampling import build_scheduler

MAX_STEPS = 40


class DdimStep(torch.nn.Module):
    """x_{t-1} from x_t (Song et al. 2021, equation 12, eta 0), the clean image clipped as the scheduler says."""

    def __init__(self, denoiser: torch.nn.Module, clip: float) -> None:
        super().__init__()
        self.denoiser, self.clip = denoiser, clip

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        (noise,) = self.denoiser(sample, timestep, return_dict=False)
        signal, sigma, next_signal, next_sigma = coefficients[:, :, None, None, None].unbind(1)
        clean = ((sample - sigma * noise) / signal).clamp(-self.clip, self.clip)
        return next_signal * clean + next_sigma * noise


def trajectory(scheduler: Any, steps: int) -> dict[str, list[Any]]:
    """Timesteps and coefficients of a loop of ``steps`` steps, from diffusers' scheduler."""
    stepper = build_scheduler(scheduler, "ddim", steps)
    timesteps = [int(t) for t in stepper.timesteps]
    gap = stepper.config.num_train_timesteps // steps
    levels = [float(stepper.alphas_cumprod[t]) for t in timesteps]
    befores = [float(stepper.alphas_cumprod[t - gap] if t >= gap else stepper.final_alpha_cumprod) for t in timesteps]
    rows = [[a**0.5, (1 - a) ** 0.5, b**0.5, (1 - b) ** 0.5] for a, b in zip(levels, befores, strict=True)]
    return {"timesteps": timesteps, "coefficients": rows}


def export_step(path: Path) -> None:
    """Write the embedded default's step graph and its description."""
    folder = models.find(None)
    scheduler = models.load_scheduler(folder)
    model = DdimStep(models.load_denoiser(folder), scheduler.config.clip_sample_range)
    batch = torch.export.Dim("batch")
    example = {"sample": torch.randn(2, 1, 16, 16), "timestep": torch.tensor([1, 2]), "coefficients": torch.rand(2, 4)}
    program = torch.onnx.export(
        model,
        kwargs=example,
        dynamic_shapes={name: {0: batch} for name in example},
        input_names=list(example),
        output_names=["previous"],
        opset_version=21,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    facts = {"sampler": "ddim", "dtype": "fp32", "train_timesteps": scheduler.config.num_train_timesteps}
    schedules = {str(steps): trajectory(scheduler, steps) for steps in range(1, MAX_STEPS + 1)}
    write_json(path.with_suffix(".json"), describe(path) | facts | {"schedules": schedules})


def run_with_step_graph(path: Path) -> Run:
    """A run folder whose export stage has finished with a step graph."""
    run = Run.create(path)
    with run.writing(Request("export", {}, {})) as folder:
        (folder / "onnx").mkdir()
        export_step(folder / "onnx" / "compressed_step.onnx")
    return run
