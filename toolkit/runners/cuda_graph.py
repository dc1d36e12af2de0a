"""CUDA graphs: what was launched once is launched again as one, which is what a small model at batch 1 waits for.

A graph holds addresses, so its inputs and outputs stay where they are: new values are copied in, results are copied
out (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from toolkit.core.errors import DtkError, first_line
from toolkit.core.numerics import torch_numerics
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import RunnerKind
from toolkit.runners.torch import TorchRunner

WARM_UP_CALLS = 3  # cuDNN and cuBLAS choose and allocate in their first calls, which a graph must not hold

Work = Callable[[], torch.Tensor]
Replay = Callable[[], object]
Capture = Callable[[Work, str], tuple[torch.Tensor, Replay]]


def capture(work: Work, device: str) -> tuple[torch.Tensor, Replay]:
    """What ``work`` returns, and how to compute it again from the same memory into the same memory.

    ``work`` may only read and write tensors on ``device``. Raises DtkError if it cannot be captured.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP_CALLS):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph):
            output = work()
    except RuntimeError as error:
        raise DtkError(
            "This model cannot be captured as a CUDA graph.",
            found=first_line(error),
            do="use the runner 'torch' or 'compile'",
        ) from error
    return output, graph.replay


class CapturedCall:
    """A function of tensors, captured for the shapes of ``inputs``; what it closes over stays in memory with it."""

    def __init__(
        self,
        call: Callable[..., torch.Tensor],
        inputs: Mapping[str, torch.Tensor],
        device: str,
        capture: Capture = capture,
    ) -> None:
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self._call = call  # holds tensors that the graph reads, whose memory would otherwise be reused
        self._output, self._replay = capture(lambda: call(**self._inputs), device)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        self._replay()
        return self._output.clone()


class CudaGraphRunner(TorchRunner):
    """The denoiser in eager PyTorch, recorded as one CUDA graph per shape; needs an NVIDIA GPU."""

    name = "cudagraph"

    def __init__(
        self, model: ModelFolder, *, device: str = "cuda", dtype: str = "fp32", capture: Capture = capture
    ) -> None:
        super().__init__(model, device=device, dtype=dtype)
        self._capture = capture
        self._captured: dict[tuple[tuple[str, torch.Size], ...], CapturedCall] = {}

    def _predict(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        inputs = {"sample": sample, "timestep": timestep, **conditioning}
        shapes = tuple((name, tensor.shape) for name, tensor in sorted(inputs.items()))
        if shapes not in self._captured:
            self._captured[shapes] = CapturedCall(self.uncaptured, inputs, self.device, self._capture)
        return self._captured[shapes](inputs)

    def uncaptured(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """The launches themselves, for a graph of more than one call."""
        with torch.inference_mode(), torch_numerics(tf32=self._tf32):
            return super()._predict(sample, timestep, **conditioning)

    def close(self) -> None:
        self._captured.clear()
        super().close()


def unavailable(device: str) -> str | None:
    """Why there are no CUDA graphs on ``device``, None if there are."""
    return None if device.startswith("cuda") else "CUDA graphs are of an NVIDIA GPU: --device cuda"


RUNNER = RunnerKind("cudagraph", "model", CudaGraphRunner, unavailable, takes_dtype=True)
