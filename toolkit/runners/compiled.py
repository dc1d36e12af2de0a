"""The runners on torch.compile: PyTorch, compiled by inductor, in each of its modes."""

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
    mode = "default"

    def __init__(self, model: ModelFolder, *, device: str = "cpu", dtype: str = "fp32") -> None:
        super().__init__(model, device=device, dtype=dtype)
        self._compiled = torch.compile(self._denoiser, fullgraph=True, dynamic=False, mode=self.mode)
        self._seen: set[torch.Size] = set()

    def _predict(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        if sample.shape not in self._seen:
            self._compile(sample, timestep, **conditioning)
            self._seen.add(sample.shape)
        prediction: torch.Tensor = self._compiled(sample, timestep, **conditioning)
        return prediction

    def _compile(self, *args: torch.Tensor, **conditioning: torch.Tensor) -> None:
        try:
            with dynamo.config.patch(recompile_limit=GRAPHS):
                self._compiled(*args, **conditioning)
        except (dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            raise DtkError(
                "torch.compile failed on this denoiser.",
                found=first_line(error),
                do=f"leave the runner '{self.name}' out; 'torch' runs the same model",
            ) from error

    def close(self) -> None:
        del self._compiled
        super().close()


class GraphedCompiledRunner(CompiledRunner):
    """torch.compile in a mode that launches CUDA graphs, whose output's memory the next call writes again."""

    def _predict(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return super()._predict(sample, timestep, **conditioning).clone()


class ReduceOverheadRunner(GraphedCompiledRunner):
    """torch.compile's mode reduce-overhead: the compiled kernels as one CUDA graph."""

    name = "compile-reduce-overhead"
    mode = "reduce-overhead"


class MaxAutotuneRunner(GraphedCompiledRunner):
    """torch.compile's mode max-autotune: it also times several kernels for each product and keeps the fastest."""

    name = "compile-max-autotune"
    mode = "max-autotune"


def unavailable(device: str) -> str | None:
    """Why torch.compile cannot compile for ``device``, None if it can."""
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler, and there is none on PATH"
    if device.startswith("cuda") and find_spec("triton") is None:
        return "torch.compile needs the package triton on a GPU"
    return None


def _only_on_a_gpu(device: str) -> str | None:
    """CUDA graphs save launches, and it is a GPU's kernels that are worth minutes of search."""
    return "on a CPU use the runner 'compile': this mode is for a GPU" if device == "cpu" else unavailable(device)


RUNNER = (
    RunnerKind("compile", "model", CompiledRunner, unavailable, takes_dtype=True),
    RunnerKind("compile-reduce-overhead", "model", ReduceOverheadRunner, _only_on_a_gpu, takes_dtype=True),
    RunnerKind("compile-max-autotune", "model", MaxAutotuneRunner, _only_on_a_gpu, takes_dtype=True),
)
