"""The runners on PyTorch itself, eager: as it is, and as one tunes it by hand."""

from __future__ import annotations

import torch

from toolkit.core.errors import UsageError
from toolkit.core.numerics import torch_numerics
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import BorderedDenoiser, stored_in
from toolkit.runners.base import RunnerKind


class TorchRunner:
    """The denoiser in eager PyTorch, computing in ``dtype`` (fp32, fp16, bf16; on an NVIDIA GPU also tf32)."""

    name = "torch"
    search = False
    """Whether cuDNN tries its kernels at the first call of a shape and keeps the fastest."""

    def __init__(self, model: ModelFolder, *, device: str = "cpu", dtype: str = "fp32") -> None:
        if dtype == "tf32" and not device.startswith("cuda"):
            raise UsageError(f"There is no tf32 on {device}.", expected="fp32, or --device cuda")
        self.device, self._tf32 = device, dtype == "tf32"
        self._denoiser = BorderedDenoiser(load_denoiser(model), stored_in(dtype)).to(device)

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch_numerics(tf32=self._tf32, search=self.search):
            return self._predict(sample, timestep, **conditioning)

    def _predict(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = self._denoiser(sample, timestep, **conditioning)
        return prediction

    def close(self) -> None:
        del self._denoiser
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


class ChannelsLastRunner(TorchRunner):
    """Eager PyTorch with the weights' channels last, which tensor cores read, and cuDNN's search for kernels."""

    name = "torch-channels-last"
    search = True

    def __init__(self, model: ModelFolder, *, device: str = "cpu", dtype: str = "fp32") -> None:
        super().__init__(model, device=device, dtype=dtype)
        self._denoiser = self._denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _predict(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        prediction = super()._predict(sample.contiguous(memory_format=torch.channels_last), timestep, **conditioning)
        return prediction.contiguous()


RUNNER = (
    RunnerKind("torch", "model", TorchRunner, takes_dtype=True),
    RunnerKind("torch-channels-last", "model", ChannelsLastRunner, takes_dtype=True),
)
