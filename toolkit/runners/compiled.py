"""The runner on torch.compile: PyTorch, compiled by inductor."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch
from torch import _dynamo as dynamo

from toolkit.core.errors import DtkError, first_line
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import RunnerKind
from toolkit.runners.torch import TorchRunner

GRAPHS = 256  # all compiled denoisers of a process share one limit, which is 8 by default


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
                found=first_line(error),
                do="leave the runner 'compile' out; 'torch' runs the same model",
            ) from error

    def close(self) -> None:
        del self._compiled
        super().close()


def unavailable(device: str) -> str | None:
    """Why torch.compile cannot compile for ``device``, None if it can."""
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler, and there is none on PATH"
    if device.startswith("cuda") and find_spec("triton") is None:
        return "torch.compile needs the package triton on a GPU"
    return None


RUNNER = RunnerKind("compile", "model", CompiledRunner, unavailable, takes_dtype=True)
