"""A TensorRT engine launched as one CUDA graph per shape: at small batches, launching takes longer than computing."""

from __future__ import annotations

from pathlib import Path

import torch

from toolkit.runners.base import RunnerKind
from toolkit.runners.cuda_graph import Capture, CapturedCall, capture
from toolkit.runners.tensorrt import TensorRTRunner, unavailable
from toolkit.runners.tensorrt_binding import Binding, Feed

Shapes = tuple[tuple[int, ...], ...]


class TensorRTGraphRunner(TensorRTRunner):
    """A built denoiser, captured once per shape; each graph has a context, as it holds that one's memory."""

    name = "tensorrt-cudagraph"

    def __init__(self, path: Path, *, device: str = "cuda", capture: Capture = capture) -> None:
        super().__init__(path, device=device)
        self._capture = capture
        self._captured: dict[Shapes, CapturedCall] = {}
        self._loops: dict[Shapes, Binding] = {}

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        feed = self._feed({"sample": sample, "timestep": timestep, **conditioning})
        shapes = _shapes(feed)
        if shapes not in self._captured:
            binding = self._new_binding()
            self._captured[shapes] = CapturedCall(
                lambda **inputs: self._on_current_stream(binding, inputs), feed, self.device, self._capture
            )
        return self._captured[shapes](feed)

    def uncaptured(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """The launch itself, for a graph of more than one call."""
        feed = self._feed({"sample": sample, "timestep": timestep, **conditioning})
        if (shapes := _shapes(feed)) not in self._loops:
            self._loops[shapes] = self._new_binding()
        return self._on_current_stream(self._loops[shapes], feed)

    def _on_current_stream(self, binding: Binding, feed: Feed) -> torch.Tensor:
        with torch.cuda.device(self.device):
            return binding.enqueue(feed, torch.cuda.current_stream(self.device))

    def close(self) -> None:
        self._captured.clear()
        self._loops.clear()
        super().close()


def _shapes(feed: Feed) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in feed.values())


RUNNER = RunnerKind("tensorrt-cudagraph", "engine", TensorRTGraphRunner, unavailable)
