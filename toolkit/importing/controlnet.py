"""A ControlNet of the dense model (Zhang et al. 2023), sliced with the plan of the UNet that it was copied from.

Its encoder mirrors the UNet's: the same tensors keep the same channels, a zero convolution those of the skip connection
that it adds to, and the conditioning embedding those of ``conv_in``. That is as exact as it is for the UNet: on the
kept channels, with every norm over the kept ones only.

ControlNetModel ties the width of its time embedding to the first level, which a pruned UNet does not. If that level is
narrower, the hidden channels and the embedding keep the most independent ones, and the layers between are fitted by
ridge least squares over all timesteps, on which alone they depend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from scipy.linalg import qr
from torch.nn.functional import silu

from toolkit.adapters.space import Config
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, replacing
from toolkit.importing.addons import Addon, Pruned
from toolkit.models.build import build_model, full_config, plain_config
from toolkit.models.schedulers import load_scheduler
from toolkit.models.weights import load_module
from toolkit.pruning.layout import Layout
from toolkit.pruning.surgery import query_scales, renamed, slice_state
from toolkit.pruning.time_embedding import Layer, refit

KIND = "ControlNet"
ZERO, MIDDLE = "controlnet_down_blocks.", "controlnet_mid_block."
State = dict[str, torch.Tensor]


def recognises(source: Path) -> bool:
    """Whether this is the folder of a ControlNetModel."""
    path = source / "config.json"
    return path.is_file() and read_json(path).get("_class_name") == ControlNetModel.__name__


def carry(source: Path, target: Path, pruned: Pruned) -> Addon:
    """Write the sliced ControlNet as a folder of the same name in ``target``.

    Raises DtkError for one of another model, and if the compressed model has levels of unlike numbers of blocks, which
    no ControlNetModel has.
    """
    dense: Any = load_module(source, ControlNetModel)
    _check_mirrors(source, dense, pruned)
    config = _narrow_config(dense, pruned)
    narrow: Any = build_model(ControlNetModel.__name__, config, device="cpu")
    sliced = slice_state(dense.state_dict(), mirrored(pruned), pruned.plan.kept)
    state = {name: tensor for name, tensor in sliced.items() if _rename(name, pruned) is not None}
    for tensor, scale in query_scales(dense, narrow, lambda name: _rename(name, pruned)).items():
        if tensor in state:
            state[tensor] = state[tensor] * scale
    fitted, error = _fit_time(dense, narrow, state, pruned)
    removed = dict.fromkeys(_layers(name for name in sliced if name not in state), "its block was removed")
    narrow.load_state_dict(renamed(state | fitted, lambda name: _rename(name, pruned)))
    with replacing(target / source.name) as folder:
        narrow.save_pretrained(folder)
    return Addon(KIND, str(target / source.name), len(_layers(narrow.state_dict())), 0, removed, error)


def _layers(names: Iterable[str]) -> list[str]:
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight")]


def _check_mirrors(source: Path, dense: ControlNetModel, pruned: Pruned) -> None:
    for name, tensor in dense.state_dict().items():
        size = pruned.dense_shapes.get(name, tuple(tensor.shape))
        if tuple(tensor.shape) != size:
            raise DtkError(
                f"{source} was made for another model.", found=f"{name} {tuple(tensor.shape)}", expected=f"{size}"
            )


def _narrow_config(dense: ControlNetModel, pruned: Pruned) -> Config:
    """The ControlNet's own configuration with what the plan changed of the UNet's."""
    before, after, own = full_config(pruned.folder), pruned.plan.config, plain_config(dense.config)
    changed = {name: after[name] for name in own if name in after and after[name] != before[name]}
    layers = changed.get("layers_per_block", 0)
    if not isinstance(layers, int):
        raise DtkError("A ControlNetModel has one number of blocks for all levels.", found=f"layers_per_block {layers}")
    return own | changed


def writers(config: Config) -> list[str]:
    """The layers that write the UNet's skip connections, in the order of the ControlNet's zero convolutions."""
    layers = config["layers_per_block"]
    counts = [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)
    names = ["conv_in"]
    for level, count in enumerate(counts):
        names += [f"down_blocks.{level}.resnets.{block}.conv2" for block in range(count)]
        names += [f"down_blocks.{level}.downsamplers.0.conv"] if level < len(counts) - 1 else []
    return names


def mirrored(pruned: Pruned) -> Layout:
    """The layout of the ControlNet: the UNet's, and for what it adds the groups of what that adds to."""
    layout = pruned.plan.layout
    tensors = {
        name: dims
        for name, dims in layout.tensors.items()
        if name.startswith(("conv_in.", "down_blocks.", "mid_block."))
    }
    added = {f"{ZERO}{number}.": writer for number, writer in enumerate(writers(full_config(pruned.folder)))}
    for prefix, writer in (added | {MIDDLE: "mid_block.resnets.0.conv2"}).items():
        segments = layout.tensors[f"{writer}.weight"][0]
        tensors |= {f"{prefix}weight": {0: segments, 1: segments}, f"{prefix}bias": {0: segments}}
    first = layout.tensors["conv_in.weight"][0]
    tensors |= {f"controlnet_cond_embedding.conv_out.{leaf}": {0: first} for leaf in ("weight", "bias")}
    return Layout(layout.groups, tensors)


def _rename(name: str, pruned: Pruned) -> str | None:
    """What a tensor of the ControlNet is called behind the removed blocks."""
    if not name.startswith(ZERO):
        return pruned.rename(name)
    number, _, leaf = name.removeprefix(ZERO).partition(".")
    kept = [w for w in writers(full_config(pruned.folder)) if pruned.rename(f"{w}.weight") is not None]
    writer = writers(full_config(pruned.folder))[int(number)]
    return f"{ZERO}{kept.index(writer)}.{leaf}" if writer in kept else None


def _fit_time(dense: Any, narrow: Any, state: State, pruned: Pruned) -> tuple[State, float]:
    """The layers of a narrower time embedding and those that read it, and the relative error; none if it is as wide."""
    widths = [model.time_embedding.linear_1.out_features for model in (dense, narrow)]
    if widths[0] == widths[1]:
        return {}, 0.0
    _check_time_only(dense)
    steps = torch.arange(load_scheduler(pruned.folder).config.num_train_timesteps)
    old, new = (model.time_proj(steps).double() for model in (dense, narrow))
    fitted: State = {}
    for layer in ("time_embedding.linear_1", "time_embedding.linear_2"):
        wanted = silu(_applied(state, layer, old))
        weight, bias = (tensor[_independent(wanted, widths[1])] for tensor in _layer(state, layer))
        fitted |= _named(layer, refit((weight, bias), old, new)[0])
        old, new = wanted, silu(_applied(fitted, layer, new))
    errors = []
    for layer in _readers(state):
        solution, error = refit(_layer(state, layer), old, new)
        fitted |= _named(layer, solution)
        errors.append(error)
    return fitted, max(errors)


def _check_time_only(dense: Any) -> None:
    others = {name: dense.config[name] for name in ("class_embed_type", "num_class_embeds", "addition_embed_type")}
    if any(others.values()) or dense.config.act_fn != "silu":
        raise DtkError(
            "dtk cannot narrow the time embedding of this ControlNet: it is not of the timestep alone.",
            found=", ".join(f"{name} {value!r}" for name, value in others.items() if value) or dense.config.act_fn,
            do="keep the first level whole",
        )


def _readers(state: State) -> Iterator[str]:
    yield from (name.removesuffix(".weight") for name in state if name.endswith(".time_emb_proj.weight"))


def _layer(state: State, name: str) -> Layer:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _named(name: str, layer: Layer) -> State:
    return {f"{name}.weight": layer[0], f"{name}.bias": layer[1]}


def _applied(state: State, name: str, inputs: torch.Tensor) -> torch.Tensor:
    weight, bias = _layer(state, name)
    return inputs @ weight.double().T + bias.double()


def _independent(channels: torch.Tensor, count: int) -> torch.Tensor:
    """The numbers of the ``count`` columns of (T, N) that say most of the others: pivots of a QR decomposition."""
    pivots = qr(channels.numpy(), mode="r", pivoting=True)[1]
    return torch.from_numpy(pivots[:count]).long().sort().values
