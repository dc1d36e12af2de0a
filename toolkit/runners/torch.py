"""Runners on PyTorch itself: eager, and compiled by inductor."""

from __future__ import annotations

import torch
from torch import _dynamo as dynamo

from toolkit.denoiser import BorderedDenoiser
from toolkit.errors import DtkError
from toolkit.models import ModelFolder, load_denoiser

GRAPHS = 256  # all compiled denoisers of a process share one limit, which is 8 by default


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


class CompiledRunner(TorchRunner):
    """The denoiser through torch.compile: one graph for each batch size, never a silent return to eager."""

    name = "compile"

    def __init__(self, model: ModelFolder, *, device: str = "cpu", dtype: str = "fp32") -> None:
        super().__init__(model, device=device, dtype=dtype)
        self._compiled = torch.compile(self._denoiser, fullgraph=True, dynamic=False)
        self._seen: set[torch.Size] = set()

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        if sample.shape not in self._seen:
            self._compile(sample, timestep, **conditioning)
            self._seen.add(sample.shape)
        with torch.inference_mode():
            prediction: torch.Tensor = self._compiled(sample, timestep, **conditioning)
        return prediction

    def _compile(self, *args: torch.Tensor, **conditioning: torch.Tensor) -> None:
        try:
            with dynamo.config.patch(recompile_limit=GRAPHS), torch.inference_mode():
                self._compiled(*args, **conditioning)
        except (dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            raise DtkError(
                "torch.compile failed on this denoiser.",
                found=str(error).strip().splitlines()[0],
                do="leave the runner 'compile' out; 'torch' runs the same model",
            ) from error

    def close(self) -> None:
        del self._compiled
        super().close()
