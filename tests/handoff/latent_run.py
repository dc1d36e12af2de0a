"""A run of a latent model with what the export stage leaves for a server, and what dtk itself samples from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exporters.component_parity import write_components
from exporters.settings import ExportSettings
from exporters.step import export_step
from tests.latent import FOLDERS
from toolkit.adapters.inputs import input_specs, keywords
from toolkit.core.run_folder import Request, RunFolder
from toolkit.diffusion.guidance import guided
from toolkit.diffusion.sampling import sample
from toolkit.models.autoencoder import open_autoencoder
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import Condition, context_tokens, find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler

MAX_STEPS = 4


def latent_run(path: Path, kind: str) -> tuple[RunFolder, ModelFolder]:
    """A run folder whose export stage has finished on a tiny latent model."""
    model = FOLDERS[kind](path / "model")
    run, scheduler = RunFolder.create(path / "run"), load_scheduler(model)
    with run.writing(Request("export", {}, {"compressed": "0" * 64})) as folder:
        onnx = folder / "onnx"
        onnx.mkdir()
        specs = input_specs(
            model.class_name,
            model.config,
            timesteps=scheduler.config.num_train_timesteps,
            tokens=context_tokens(model),
        )
        target, null = onnx / "compressed_step.onnx", find_conditioning(model).has_null
        export_step(load_denoiser(model), scheduler, specs, target, longest=MAX_STEPS, guided=null)
        write_components(model, ExportSettings(dtype="fp16"), onnx)
    return run, model


def expected(model: ModelFolder, seed: int, steps: int, condition: Condition, scale: float = 1.0) -> np.ndarray:
    """Dtk's own image, float32 (C, H, W) in [0, 1]: torch, diffusers' DDIM, guidance in two calls, the autoencoder."""
    denoiser, conditioner, stage = load_denoiser(model), open_conditioner(model), open_autoencoder(model)
    assert stage is not None

    def predict(sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = denoiser(sample, timestep, **keywords(given)).sample
        return prediction

    null = conditioner([None]) if find_conditioning(model).has_null else {}
    shape = (model.config["in_channels"], 8, 8)
    with torch.no_grad():
        latent = sample(
            guided(predict, null, scale),
            load_scheduler(model),
            [seed],
            shape,
            steps,
            conditioning=conditioner([condition]),
        )
        (image,) = stage.decode(latent)
    return (image / 2 + 0.5).clamp(0, 1).numpy()
