"""Planning and pruning a model in memory: nothing is written, and what is given is not changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers import ModelMixin

from toolkit.adapters.inputs import input_specs
from toolkit.api.models import Model, open_dense, shape_of
from toolkit.api.options import PruneOptions
from toolkit.api.progress import watched
from toolkit.api.results import PlanSummary
from toolkit.core.environment import resolve_device
from toolkit.core.errors import UsageError
from toolkit.core.progress import Progress
from toolkit.data.conditions import Condition
from toolkit.data.memory import Data, ValueRange, open_examples
from toolkit.models.build import built_config
from toolkit.models.folder import find_model
from toolkit.models.latents import EncodedExamples
from toolkit.pipeline import decoder as decoder_stage
from toolkit.pipeline.options import compress_recipe, prune_settings
from toolkit.pruning.calibration import Calibrations, draw
from toolkit.pruning.cost import counter
from toolkit.pruning.criteria.base import criterion_called
from toolkit.pruning.latency import latencies_for
from toolkit.pruning.prune import plan_by_width, prunable_for
from toolkit.pruning.prune import prune as prune_network
from toolkit.pruning.settings import PruneSettings


def plan(
    model: Model = None,
    *,
    decoder: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Unpack[PruneOptions],
) -> PlanSummary:
    """The configuration that ``target`` leads to, by width only: reads no data and no weights.

    ``model``: a UNet2DModel, UNet2DConditionModel or DiTTransformer2DModel, a DiffusionPipeline, a diffusers folder or
    hub id; None is the embedded default. ``decoder``: a target for the decoder of a folder's AutoencoderKL as well. A
    target in latency is measured on ``device``. Raises UsageError for an option that cannot be meant, DtkError if no
    configuration meets the target.
    """
    settings = prune_settings(options)
    planned = {} if decoder is None else {"decoder": _plan_decoder(model, decoder)}
    class_name, config, specs = shape_of(model, settings.tokens)
    with watched(progress) as bars, latencies_for(class_name, config, specs, settings, device, bars) as latencies:
        count = counter(class_name, config, specs)
        prunable = prunable_for(class_name, config, settings)
        return PlanSummary(plan_by_width(prunable, settings, count, latencies=latencies, progress=bars) | planned)


def _plan_decoder(model: Model, target: str) -> dict[str, Any]:
    if model is not None and not isinstance(model, str | Path):
        raise UsageError("A decoder is planned from a folder.", found=type(model).__name__, expected="a path or hub id")
    requested = compress_recipe(None, None, {"decoder": target}).decoder
    assert requested is not None
    return decoder_stage.dry_run(find_model(model), requested)


def prune(
    model: Model = None,
    *,
    data: Data = None,
    value_range: ValueRange | None = None,
    conditions: Sequence[Condition] | None = None,
    scheduler: Any = None,
    context: torch.Tensor | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Unpack[PruneOptions],
) -> ModelMixin:
    """A stock module of the same class, narrower or shallower, that meets ``target``; its ``plan`` says what was kept.

    ``model`` as in ``plan``; a copy is worked on. ``data``: the images that channels are scored on, as many again being
    held out: a path, a hub data set, an array or tensor (N, C, H, W), or an iterable of PIL images or arrays, alone, as
    (image, class) or as {"image": ..., "label" or "text": ...}. Float arrays need ``value_range``, such as (0, 1) or
    (-1, 1); a bare denoiser of latents takes these, with value_range="latents". ``conditions``: the class or caption of
    each image, if the data does not bring them. ``scheduler`` and, for a model that takes one, ``context`` (N, S, D)
    are only needed for a bare denoiser. The result is in float32 on the CPU, in eval mode, not recovered. Raises
    UsageError or DtkError in words.
    """
    settings, place = prune_settings(options), resolve_device(device)
    dense = open_dense(model, scheduler, context, place)
    class_name, config = type(dense.network).__name__, built_config(type(dense.network).__name__, dense.network.config)
    specs = input_specs(class_name, config, tokens=settings.tokens) if settings.tokens else dense.specs
    with watched(progress) as bars, latencies_for(class_name, config, specs, settings, device, bars) as latencies:
        calibrations = _calibrations(dense, settings, model, data, value_range, conditions, context, place, bars)
        pruned = prune_network(
            dense.network,
            dense.scheduler,
            settings,
            counter(class_name, config, specs),
            calibrations,
            latencies=latencies,
            progress=bars,
        )
    module: Any = pruned.model.cpu()
    module.plan = PlanSummary(pruned.plan.facts)
    stock: ModelMixin = module
    return stock


def _calibrations(
    dense: Any,
    settings: PruneSettings,
    model: Model,
    data: Data,
    value_range: ValueRange | None,
    conditions: Sequence[Condition] | None,
    context: torch.Tensor | None,
    device: str,
    progress: Progress,
) -> Calibrations | None:
    """The images to score on; None for a criterion that reads none, if none are given."""
    if data is None and model is not None:
        if not criterion_called(settings.criterion).reads_images:
            return None
        raise UsageError(
            f"The criterion {settings.criterion} scores on images.",
            found="no data",
            do="give data=, or criterion='magnitude'",
        )
    channels, height, width = dense.specs["sample"].shape
    shape = (channels, height, width)
    if dense.autoencoder is not None and value_range != "latents":
        shape = dense.autoencoder.image_shape(shape)
    conditions = list(range(len(context))) if context is not None else conditions
    examples = open_examples(data, shape, value_range, conditions, progress)
    if dense.autoencoder is not None and value_range != "latents":
        examples = EncodedExamples(examples, dense.autoencoder)
    return draw(examples, settings, dense.scheduler, dense.conditioner, device)
