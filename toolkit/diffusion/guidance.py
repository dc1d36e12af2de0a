"""Classifier-free guidance: a denoiser that leads away from its null condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from toolkit.core.errors import UsageError
from toolkit.models.conditioning import Conditioning

if TYPE_CHECKING:
    import torch

    from toolkit.diffusion.sampling import Predict


def guided(predict: Predict, null: Mapping[str, torch.Tensor], scale: float) -> Predict:
    """A denoiser that predicts null + ``scale`` x (conditional - null): two calls in one of twice the batch.

    Ho and Salimans (2022), equation 6, with scale = 1 + w; at 1 that is the conditional prediction, and ``predict``
    itself is returned. ``null`` holds the null condition's inputs, one row. A learned variance is the conditional's.
    """
    if scale == 1:
        return predict

    def call(sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        import torch

        both = {name: torch.cat([null[name].expand_as(rows), rows]) for name, rows in conditioning.items()}
        twice = predict(torch.cat([sample, sample]), torch.cat([timestep, timestep]), **both)
        away, towards = twice.chunk(2)
        channels = sample.shape[1]
        mean = away[:, :channels] + scale * (towards - away)[:, :channels]
        return torch.cat([mean, towards[:, channels:]], dim=1)

    return call


def check_guidance(conditioning: Conditioning, scale: float) -> None:
    """Raise UsageError if a model is to be guided that has nothing to be led away from."""
    if scale != 1 and not conditioning.has_null:
        raise UsageError(
            f"This model cannot be sampled with guidance {scale:g}.",
            found="a model without conditions" if conditioning.kind == "none" else "a model without a null class",
            expected="guidance 1, which is none",
        )
