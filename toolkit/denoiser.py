"""The denoiser as every runner and exporter sees it: float32 at the borders, one timestep an item, a tensor out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from toolkit.mixed_precision import convert

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class BorderedDenoiser(nn.Module):
    """A diffusers denoiser computing in ``dtype`` (fp32, fp16 or bf16) behind float32 inputs and output.

    The denoiser is converted in place, but for its modules that match ``keep_fp32`` (shell wildcards over their names);
    ``kept_share`` says how many of its parameters stayed in float32.
    """

    def __init__(self, denoiser: nn.Module, dtype: str = "fp32", keep_fp32: Sequence[str] = ()) -> None:
        super().__init__()
        self.dtype = DTYPES[dtype]
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.kept_share = convert(self.denoiser, self.dtype, keep_fp32)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from ``sample`` (B, C, H, W) float32 at ``timestep`` (B,) int64; returns (B, C', H, W) float32."""
        conditioning: dict[str, Any] = {}
        if class_labels is not None:
            conditioning["class_labels"] = class_labels
        if encoder_hidden_states is not None:
            conditioning["encoder_hidden_states"] = encoder_hidden_states.to(self.dtype)
        prediction: torch.Tensor
        (prediction,) = self.denoiser(sample.to(self.dtype), timestep, return_dict=False, **conditioning)
        return prediction.to(sample.dtype)
