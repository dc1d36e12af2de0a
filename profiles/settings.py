"""The settings of `dtk profile`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from toolkit.core.errors import UsageError
from toolkit.core.settings import Settings

FEWEST_ROUNDS = 6  # the fewest that give a distribution-free interval at 95 %


class Rounds(Settings):
    """How long to measure at one batch size: as many rounds as fit ``seconds``, within ``least`` and ``most``."""

    seconds: float = Field(default=4.0, gt=0)
    least: int = Field(default=11, ge=FEWEST_ROUNDS)
    most: int = 200

    @model_validator(mode="after")
    def _in_order(self) -> Rounds:
        if self.least > self.most:
            raise UsageError(f"At least {self.least} but at most {self.most} rounds were requested.")
        return self


class ProfileSettings(Settings):
    """The settings of the profile stage; ``device`` "auto" is the GPU if torch sees one, else the CPU."""

    runners: tuple[str, ...] = Field(default=("torch", "onnxruntime"), description="NAME or NAME:DTYPE each")
    baseline: str = Field(
        default="auto",
        description="what the dense model ran in before, RUNNER[:DTYPE]; auto: the fastest of torch's, per batch size",
    )
    batches: tuple[int, ...] = (1, 16, 64)
    device: str = "auto"
    dtype: Literal["fp32", "tf32", "fp16", "bf16"] = Field(
        default="fp32", description="of the runners that name none and take one: torch's, OpenVINO"
    )
    rounds: Rounds = Rounds()
    loop_steps: int = Field(
        default=20, ge=0, description="of the sampling loop of a model that was taught none; 0: no loop"
    )
    parts: bool = Field(
        default=True, description="time each part of the network in torch and, by their own profilers, in exports"
    )
    guidance: float = Field(default=1.0, ge=0, description="classifier-free, of the loop; 1 is none, and half the work")
    tokens: int | None = Field(default=None, ge=1, description="length of the context; None = what the model is given")

    @model_validator(mode="after")
    def _something_to_measure(self) -> ProfileSettings:
        if not self.runners or not self.batches:
            raise UsageError("There is nothing to profile.", expected="at least one runner and one batch size")
        if min(self.batches) < 1:
            raise UsageError(f"Cannot profile a batch of {min(self.batches)}.", expected="batch sizes of 1 or more")
        return self
