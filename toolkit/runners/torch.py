"""The runner on PyTorch itself, eager."""

from __future__ import annotations

import torch

from toolkit.models.folder import ModelFolder, load_denoiser
from toolkit.models.precision import BorderedDenoiser
from toolkit.runners.base import RunnerKind


class TorchRunner:
    """The denoiser in eager PyTorch, computing in ``dtype`` (fp32, fp16, bf16)."""

    name = "torch"

    def __init__(self, model: ModelFolder, *, device: str = "cpu", dtype: str = "fp32") -> None:
        self.device = device
        self._denoiser = BorderedDenoiser(load_denoiser(model), dtype).to(device)

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            prediction: torch.Tensor = self._denoiser(sample, timestep, **conditioning)
        return prediction

    def close(self) -> None:
        del self._denoiser
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


RUNNER = RunnerKind("torch", "model", TorchRunner, takes_dtype=True)
