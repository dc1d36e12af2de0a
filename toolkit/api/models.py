"""Models as users hold them in Python, copied into what pruning works on: nothing is written, they stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import DiffusionPipeline, ModelMixin

from toolkit.adapters.base import TOKENS, InputSpec, adapter_of
from toolkit.adapters.inputs import input_specs
from toolkit.core.errors import UsageError
from toolkit.data.conditions import Condition
from toolkit.models.autoencoder import PLACES, Autoencoder, open_autoencoder
from toolkit.models.build import full_config, load_denoiser, plain_config, refuse_quantised
from toolkit.models.captions import CaptionEncoder, sizes_of
from toolkit.models.conditioners import ClassLabels, Conditioner, Unconditional, open_conditioner
from toolkit.models.conditioning import ENCODERS, Conditioning, denoiser_inputs
from toolkit.models.folder import components, find_model
from toolkit.models.schedulers import load_scheduler

Model: TypeAlias = "str | Path | ModelMixin | DiffusionPipeline | None"
"""A denoiser in memory, a pipeline, a diffusers folder or hub id; None is the embedded default."""


@dataclass(frozen=True)
class DenseModel:
    """A dense model in memory: a copy of its network in eval mode, and what noises, encodes and conditions for it."""

    network: ModelMixin
    specs: dict[str, InputSpec]
    scheduler: Any
    conditioner: Conditioner
    autoencoder: Autoencoder | None = None


def shape_of(model: Model, tokens: int | None = None) -> tuple[str, dict[str, Any], dict[str, InputSpec]]:
    """Class name, full configuration and inputs of a denoiser; reads no weights. ``tokens``: length of its context."""
    if isinstance(model, DiffusionPipeline):
        encoders = [encoder for name in ENCODERS if (encoder := getattr(model, name, None)) is not None]
        tokens = tokens or (int(encoders[-1].config.max_position_embeddings) if encoders else None)
        model = _denoiser_of(model)
    if isinstance(model, ModelMixin):
        class_name, config = type(model).__name__, plain_config(model.config)
        return class_name, config, input_specs(class_name, config, tokens=tokens or TOKENS)
    folder = find_model(model)
    refuse_quantised(folder)
    return folder.class_name, full_config(folder), denoiser_inputs(folder, tokens)


def open_dense(model: Model, scheduler: Any, context: torch.Tensor | None, device: str) -> DenseModel:
    """A copy of ``model`` on ``device``. ``scheduler`` and ``context`` are for a bare denoiser; see ``prune``."""
    if isinstance(model, DiffusionPipeline):
        return _of_pipeline(model, scheduler, device)
    if isinstance(model, ModelMixin):
        return _of_denoiser(model, scheduler, context, device)
    folder = find_model(model)
    network = load_denoiser(folder).to(device)
    scheduler = scheduler or load_scheduler(folder)
    conditioner, autoencoder = open_conditioner(folder, device), open_autoencoder(folder, device)
    return DenseModel(network, denoiser_inputs(folder), scheduler, conditioner, autoencoder)


def _denoiser_of(pipeline: DiffusionPipeline) -> ModelMixin:
    denoisers = [getattr(pipeline, name) for name in components() if getattr(pipeline, name, None) is not None]
    if not denoisers:
        raise UsageError(
            f"{type(pipeline).__name__} has no denoiser that dtk knows.", expected=f"one of {', '.join(components())}"
        )
    denoiser: ModelMixin = denoisers[0]
    return denoiser


def _of_pipeline(pipeline: DiffusionPipeline, scheduler: Any, device: str) -> DenseModel:
    network = _copied(_denoiser_of(pipeline), device)
    specs = input_specs(type(network).__name__, network.config)
    autoencoder_module = next(
        (getattr(pipeline, name) for name in PLACES if getattr(pipeline, name, None) is not None), None
    )
    autoencoder = None if autoencoder_module is None else Autoencoder(_copied(autoencoder_module, device), device)
    encoders = [_copied(e, device) for name in ENCODERS if (e := getattr(pipeline, name, None)) is not None]
    if "encoder_hidden_states" in specs and encoders:
        named = [getattr(pipeline, name.replace("text_encoder", "tokenizer"), None) for name in ENCODERS]
        tokenizers = [copy.deepcopy(tokenizer) for tokenizer in named if tokenizer is not None]
        conditioning = Conditioning("caption", 0, True, int(encoders[-1].config.max_position_embeddings))
        channels, height, width = specs["sample"].shape
        if autoencoder:
            _, height, width = autoencoder.image_shape((channels, height, width))
        sizes = sizes_of(network.config, pipeline.config, (height, width))
        conditioner: Conditioner = CaptionEncoder(encoders, tokenizers, conditioning, sizes, device)
    else:
        conditioner = _conditioner(network, specs, None, device)
    return DenseModel(network, specs, scheduler or pipeline.scheduler, conditioner, autoencoder)


def _of_denoiser(model: ModelMixin, scheduler: Any, context: torch.Tensor | None, device: str) -> DenseModel:
    if scheduler is None:
        raise UsageError(
            "A denoiser by itself does not say its noise levels.", do="give scheduler=, the one it was trained with"
        )
    tokens = TOKENS if context is None else context.shape[1]
    specs = input_specs(type(model).__name__, model.config, tokens=tokens)
    return DenseModel(_copied(model, device), specs, scheduler, _conditioner(model, specs, context, device))


def _copied(module: Any, device: str) -> Any:
    """A float32 copy in eval mode: scoring uses the gradients of what it is given."""
    return copy.deepcopy(module).to(device).float().eval().requires_grad_(True)


def _conditioner(
    network: ModelMixin, specs: dict[str, InputSpec], context: torch.Tensor | None, device: str
) -> Conditioner:
    needed = specs.keys() - {"sample", "timestep"}
    if not needed:
        return Unconditional(Conditioning("none"))
    if needed == {"class_labels"}:
        null_class = adapter_of(type(network).__name__).null_class
        return ClassLabels(Conditioning("class", specs["class_labels"].upper, null_class), device)
    if needed == {"encoder_hidden_states"} and context is not None:
        return GivenContext(context, device)
    raise UsageError(
        f"This {type(network).__name__} takes {' and '.join(sorted(needed))}, and nothing here makes that.",
        do="give the whole pipeline, its folder, or context= (N, S, D), a row for each image of data=",
    )


class GivenContext:
    """The context of each image as it was given: its condition is its row."""

    def __init__(self, context: torch.Tensor, device: str) -> None:
        self.conditioning = Conditioning("class", len(context), False, context.shape[1])
        self._context = context.detach().float().to(device)

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": self._context[[int(row or 0) for row in conditions]]}
