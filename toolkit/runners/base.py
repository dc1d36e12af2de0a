"""What a runner is: something that computes the denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Runner(Protocol):
    """Computes the denoiser's prediction; torch, ONNX Runtime and TensorRT stand behind the same call.

    Tensors live on ``device``; the first call for a new batch size may be slow (compilation, allocation).
    """

    name: str
    device: str

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """Predict from ``sample`` (B, C, H, W) float32 at ``timestep`` (B,) int64; returns (B, C, H, W) float32.

        ``conditioning`` holds what the class takes: ``class_labels`` (B,) or ``encoder_hidden_states`` (B, S, D).
        """
        ...

    def close(self) -> None:
        """Release sessions, engines and device memory; a closed runner is not called again."""
        ...
