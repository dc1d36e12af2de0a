"""Settings of the prune stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from toolkit.core.settings import Settings


class LatencySettings(Settings):
    """What calls are timed with, for a ``latency=`` target and for equal time: the runner, batch size and precision."""

    runner: str = "onnxruntime"
    batch: int = Field(default=16, ge=1)
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    seconds: float = Field(default=4.0, gt=0, description="of one turn of measuring; a noisy entry takes several")
    build_budget_s: float | None = Field(
        default=None,
        gt=0,
        description="of each engine: if the dense model's takes longer, all are built less thoroughly",
    )


class PruneSettings(Settings):
    """What is pruned, how much, and by which criterion.

    ``latency``: how a target in latency is measured, and the calls that `dtk evaluate --controls` compares.
    ``threshold``: where Diff-Pruning stops summing gradients; "auto" takes the one that leaves the least one-shot error
    on held-out images. ``calibration_images``: images that are scored on; as many more are held out.
    ``calibration_batch_size``: how many of them at once (None = all), which changes memory and not the scores: the loss
    is the mean over all of them. ``score_timesteps``: how many timesteps before the stop are visited, evenly spread,
    each standing for its neighbours (None = every one, as in the paper). ``noise_draws``: noise tensors that alternate
    from one visited timestep to the next (the paper has one). ``score_precision``: "bf16" is autocast.
    ``reconstruct``: after slicing, fit each layer's weights so that its outputs on the calibration images change least.
    ``target``: bounds, see toolkit.pruning.targets. ``min_width``: no level gets narrower than this fraction of its
    dense width, and no stack of blocks shorter.
    ``blocks``: whole blocks may go as well if the class can say it (``layers_per_block`` of the UNets; UNet2DModel's
    attentions and middle block); a class whose widths are not free (DiT) is pruned by blocks in any case. ``preset``:
    the blocks of a published model go (toolkit.adapters.presets), and its target is width=1 unless one is given.
    ``tokens``: length of the context that MACs are counted for, if nothing next to the denoiser says it.
    """

    target: str = "macs=0.57"
    latency: LatencySettings = LatencySettings()
    criterion: str = "diff-pruning"
    threshold: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.05
    align: int = Field(default=8, ge=1)
    groups: Literal["within", "whole"] = "within"
    min_width: float = Field(default=0.5, gt=0, le=1)
    blocks: bool = False
    preset: str | None = None
    tokens: int | None = Field(default=None, ge=1)
    calibration_images: int = Field(default=32, ge=1)
    calibration_batch_size: int | None = Field(default=None, ge=1)
    score_timesteps: int | None = Field(default=None, ge=1)
    noise_draws: int = Field(default=1, ge=1)
    score_precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    norm_term: bool = False
    reconstruct: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _preset_alone(cls, values: Any) -> Any:
        """A preset says what goes: without a target, every width stays."""
        alone = isinstance(values, dict) and values.get("preset") and "target" not in values
        return {**values, "target": "width=1"} if alone else values
