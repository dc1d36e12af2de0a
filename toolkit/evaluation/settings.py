"""The settings of `dtk evaluate` and `dtk verify`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from toolkit.core.errors import UsageError
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
    controls: bool = False  # also sample both models in fewer steps, the dense one in as many as take the same time


def _parse_margin(value: object) -> object:
    if not isinstance(value, str):
        return value
    number, percent = value.strip().removesuffix("%"), value.strip().endswith("%")
    try:
        return float(number) / (100 if percent else 1)
    except ValueError as error:
        raise UsageError(f"Cannot read the margin {value!r}.", expected="a share such as 5% or 0.05") from error


class VerifySettings(Settings):
    """What is tested and how strictly; how images are sampled is the evaluation's."""

    margin: Annotated[float, BeforeValidator(_parse_margin)] = Field(
        default=0.05,
        gt=0,
        description="by how much the excess over the distance between real images may exceed the dense model's",
    )
    artefact: str | None = Field(default=None, description="what is tested; none: what the handoff holds")
    images: int | None = Field(default=None, ge=20, description="pairs; none: as many as the evaluation samples")
    power: float = Field(default=0.8, gt=0, lt=1, description="at which an inconclusive test says what would decide")
