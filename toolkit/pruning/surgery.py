"""A smaller stock model with the kept channels of the dense one, equal in function on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.modeling_utils import no_init_weights
from torch import nn

from toolkit.adapters.blocks import Rename, unchanged
from toolkit.adapters.space import Config
from toolkit.adapters.text_time import text_time
from toolkit.core.errors import DtkError
from toolkit.models.build import build_model
from toolkit.pruning.couplings import attentions
from toolkit.pruning.layout import Kept, Layout, indices
from toolkit.pruning.time_embedding import refit_ids, refit_time


def slice_state(state: Mapping[str, torch.Tensor], layout: Layout, kept: Kept) -> dict[str, torch.Tensor]:
    """Every tensor with only the kept channels; dimensions that lose none are unchanged."""
    sliced = dict(state)
    for tensor, dim, segments in layout.dimensions():
        chosen = torch.from_numpy(indices(segments, kept))
        if len(chosen) < state[tensor].shape[dim]:
            sliced[tensor] = sliced[tensor].index_select(dim, chosen.to(state[tensor].device))
    return sliced


def renamed(state: Mapping[str, torch.Tensor], rename: Rename) -> dict[str, torch.Tensor]:
    """The tensors under their names in the shallower model; those of blocks that go are left out."""
    names = {tensor: rename(tensor) for tensor in state}
    return {name: state[tensor] for tensor, name in names.items() if name is not None}


def shallower(dense: ModelMixin, config: Config, rename: Rename) -> ModelMixin:
    """``dense`` without some of its blocks; it shares the dense model's memory."""
    model = build_model(type(dense).__name__, config)
    model.load_state_dict(renamed(dense.state_dict(), rename), assign=True)
    for name, buffer in dense.named_buffers():  # computed ones, which no state holds
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer)
    return model


def slice_model(
    dense: ModelMixin, config: Config, layout: Layout, kept: Kept, timesteps: int, rename: Rename = unchanged
) -> tuple[ModelMixin, float]:
    """The model of ``config`` with the kept channels of ``dense``; ``timesteps`` is the scheduler's T.

    ``rename`` says what the dense tensors are called if blocks are removed.

    Also returns the relative error of the narrower time embedding, the one part that is not exact on the kept channels.
    Raises DtkError if a sliced tensor does not have the shape that the stock configuration needs.
    """
    state = slice_state(dense.state_dict(), layout, kept)
    with no_init_weights():
        pruned = build_model(type(dense).__name__, config, device="cpu")
    for tensor, scale in query_scales(dense, pruned, rename).items():
        if tensor in state:
            state[tensor] = state[tensor] * scale
    error = _keep_time_embeddings(state, dense.config, config, timesteps)
    state = renamed(state, rename)
    for tensor, wanted in pruned.state_dict().items():
        if state[tensor].shape != wanted.shape:
            raise DtkError(
                f"The sliced tensor {tensor} does not fit the stock configuration.",
                found=tuple(state[tensor].shape),
                expected=tuple(wanted.shape),
            )
    pruned.load_state_dict(state)
    return pruned, error


def query_scales(dense: nn.Module, narrow: nn.Module, rename: Rename) -> dict[str, float]:
    """What the kept rows of queries are multiplied by, by the dense tensor's name; no entry for what keeps its size.

    Attention divides by the square root of the head size it has: what changed of it goes into the queries.
    """
    new = dict(attentions(narrow))
    scales: dict[str, float] = {}
    for name, module in attentions(dense):
        query = rename(f"{name}.to_q.weight")
        if query is None:
            continue
        pair = (module, new[query.removesuffix(".to_q.weight")])
        sizes = [int(a.to_q.out_features) // int(a.heads) for a in pair]  # type: ignore[arg-type, union-attr]
        if sizes[0] != sizes[1]:
            scales |= dict.fromkeys((f"{name}.to_q.weight", f"{name}.to_q.bias"), math.sqrt(sizes[1] / sizes[0]))
    return scales


def _keep_time_embeddings(state: dict[str, torch.Tensor], dense: Config, narrow: Config, timesteps: int) -> float:
    """Refit the first layers of what reads sinusoids if these changed; returns the largest relative error left."""
    if "time_embedding.linear_1.weight" not in state or dense["freq_shift"] == narrow["freq_shift"]:
        return 0.0
    added = text_time(dense)
    refits: dict[str, Callable[..., Any]] = {"time_embedding.linear_1": partial(refit_time, timesteps=timesteps)}
    refits |= {"add_embedding.linear_1": partial(refit_ids, added=added)} if added else {}
    errors = []
    for layer, fit in refits.items():
        names = f"{layer}.weight", f"{layer}.bias"
        fitted, error = fit((state[names[0]], state[names[1]]), dense=dense, narrow=narrow)
        state |= dict(zip(names, fitted, strict=True))
        errors.append(error)
    return max(errors)


def refuse_tied(model: nn.Module) -> None:
    """Raise DtkError if parameters share their memory: to slice one for its own channels would change the other."""
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        twin = first.setdefault(parameter.data_ptr(), name)
        if twin != name:
            raise DtkError(
                "Parameters of the model share their memory.",
                found=f"{twin} and {name}",
                expected="untied weights",
                do="save it with a copy of its own for each",
            )


def fresh(class_name: str, config: Config, seed: int) -> ModelMixin:
    """The same structure with freshly initialised weights, a function of the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(class_name, config, device="cpu")
