"""The step graph: denoiser, guidance and the sampler's update in one ONNX file, so that a loop does no arithmetic.

    previous = step(sample, timestep, coefficients[, noise][, class_labels | encoder_hidden_states ...])

``sample`` (B, C, H, W) float32 is x_t, ``timestep`` (B,) int64 is t, ``coefficients`` (B, 7) float32 a row of the
table (exporters.coefficients) for each image, ``noise`` (B, C, H, W) float32 fresh noise (DDPM only), and
``previous`` (B, C, H, W) float32 is x_{t-1}: the next step's ``sample``. Images of one batch may be at different
timesteps. The first sample is noise times ``initial_sigma``; the last ``previous`` is the image, in [-1, 1] or a
latent. The JSON next to the file holds the table: ``schedules[N]`` has the timesteps and coefficients of N steps, and
``taught`` the numbers of steps that the model was taught, empty if it may take any.

With guidance (Ho and Salimans 2022) there are also ``guidance_scale`` (B,) float32 and, for every conditioning input,
``unconditional_`` + its name; scale 1 is only the conditional prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.coefficients import COLUMNS, SamplerName, clip_range, trajectories
from exporters.onnx import precision_facts, write_onnx
from exporters.settings import BatchRange, DtypeName
from toolkit.adapters.base import InputSpec
from toolkit.diffusion.few_steps import taught_steps
from toolkit.diffusion.step_loop import SCALE, UNCONDITIONAL
from toolkit.models.precision import BorderedDenoiser

OUTPUT = "previous"


class SamplerStep(nn.Module):
    """x_{t-1} from x_t, as exporters.coefficients says; ``clip`` bounds the clean image."""

    def __init__(self, denoiser: BorderedDenoiser, clip: float | None) -> None:
        super().__init__()
        self.denoiser, self.clip = denoiser, clip

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        coefficients: torch.Tensor,
        noise: torch.Tensor | None = None,
        guidance_scale: torch.Tensor | None = None,
        unconditional_class_labels: torch.Tensor | None = None,
        unconditional_encoder_hidden_states: torch.Tensor | None = None,
        unconditional_text_embeds: torch.Tensor | None = None,
        unconditional_time_ids: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One step of every image; shapes as in the module's docstring. Torch cannot export ``**conditioning``."""
        given = {
            "class_labels": class_labels,
            "encoder_hidden_states": encoder_hidden_states,
            "text_embeds": text_embeds,
            "time_ids": time_ids,
        }
        without = {
            "class_labels": unconditional_class_labels,
            "encoder_hidden_states": unconditional_encoder_hidden_states,
            "text_embeds": unconditional_text_embeds,
            "time_ids": unconditional_time_ids,
        }
        if guidance_scale is None:
            prediction = self.denoiser(sample, timestep, **given)
        else:
            prediction = self._guided(sample, timestep, guidance_scale, given, without)
        prediction = prediction[:, : sample.shape[1]]  # a learned variance, if there is one, plays no part
        a, b, divisor, of_clean, of_sample, of_prediction, of_noise = coefficients[:, :, None, None, None].unbind(1)
        clean = (a * sample + b * prediction) / divisor
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
        previous = of_clean * clean + of_sample * sample + of_prediction * prediction
        return previous if noise is None else previous + of_noise * noise

    def _guided(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        scale: torch.Tensor,
        given: Mapping[str, torch.Tensor | None],
        without: Mapping[str, torch.Tensor | None],
    ) -> torch.Tensor:
        """Both predictions in one batch of twice the size."""
        pairs = {name: (without[name], tensor) for name, tensor in given.items()}
        both = {name: torch.cat([no, yes]) for name, (no, yes) in pairs.items() if no is not None and yes is not None}
        prediction: torch.Tensor = self.denoiser(torch.cat([sample, sample]), torch.cat([timestep, timestep]), **both)
        unguided, towards = prediction.unflatten(0, (2, -1)).unbind(0)
        return unguided + scale[:, None, None, None] * (towards - unguided)


def step_specs(specs: Mapping[str, InputSpec], sampler: SamplerName, *, guided: bool = False) -> dict[str, InputSpec]:
    """The inputs of the step graph of a denoiser with the inputs ``specs``."""
    conditioning = {name: spec for name, spec in specs.items() if name not in ("sample", "timestep")}
    inputs = {name: specs[name] for name in ("sample", "timestep")} | {"coefficients": InputSpec((len(COLUMNS),))}
    if sampler == "ddpm":
        inputs["noise"] = specs["sample"]
    if guided:
        inputs[SCALE] = InputSpec(())
        inputs |= {UNCONDITIONAL + name: spec for name, spec in conditioning.items()}
    return inputs | conditioning


def export_step(
    denoiser: nn.Module,
    scheduler: Any,
    specs: Mapping[str, InputSpec],
    path: Path,
    *,
    sampler: SamplerName = "ddim",
    dtype: DtypeName = "fp32",
    opset: int = 21,
    keep_fp32: Sequence[str] = (),
    guided: bool = False,
    longest: int = 100,
    batch: BatchRange | None = None,
) -> dict[str, Any]:
    """Write the step graph of ``denoiser`` to ``path``, its tables next to it (.json); returns the description.

    The denoiser is converted to ``dtype`` in place, but for its modules that match ``keep_fp32``. ``longest`` is the
    most steps a table is written for, at most the model's training timesteps; ``batch`` is what it is meant to serve,
    which a server's limit comes from. Raises DtkError for a sampler whose
    update is not linear, and what ``write_onnx`` raises.
    """
    longest = min(longest, scheduler.config.num_train_timesteps)
    facts = {
        "sampler": sampler,
        "clip": clip_range(scheduler, sampler),
        "train_timesteps": scheduler.config.num_train_timesteps,
        "initial_sigma": 1.0,  # of DDIM and DDPM
        "taught": taught_steps(scheduler),
        "classes": specs["class_labels"].upper if "class_labels" in specs else None,
        "batch": batch.model_dump() if batch else {},
        "coefficients": list(COLUMNS),
        "schedules": trajectories(scheduler, sampler, longest),
    }
    bordered = BorderedDenoiser(denoiser, dtype, keep_fp32)
    facts |= precision_facts(bordered, dtype)
    module = SamplerStep(bordered, clip_range(scheduler, sampler))
    inputs = step_specs(specs, sampler, guided=guided)
    return write_onnx(module, inputs, path, outputs=[OUTPUT], opset=opset, facts=facts)
