"""The settings of `dtk evaluate`."""

from __future__ import annotations

from pydantic import Field

from toolkit.core.settings import Settings


class EvaluateSettings(Settings):
    """How many images are sampled and how, and which features judge them."""

    images: int = Field(default=1000, ge=2)
    sampler: str = "ddim"
    sampling_steps: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=1)  # changes no image
    guidance: float = Field(default=1.0, ge=0)  # classifier-free; 1 is none, and half the calls
    features: str = "efficientnet-lite0"  # or the path of a TorchScript file
    seed: int = Field(default=0, ge=0)  # image i is made from seed + i
    controls: bool = False  # also sample the dense model in fewer steps, at the compressed model's cost
