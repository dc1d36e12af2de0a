"""A LoRA of the dense model (Hu et al. 2021), sliced so that it fits the compressed one.

It adds s B A to a weight W, with B (outputs, rank) and A (rank, inputs, ...). Slicing keeps rows and columns, so that
slice(W + s B A) = slice(W) + s slice(B) slice(A): exact for every layer that the plan slices, whatever the rank and s.
Recovery then trains slice(W) further, and how well the LoRA still does is a matter of measuring.

A scale that stands in an ``.alpha`` next to the factors (kohya's layout) is multiplied into B: diffusers 0.42 forgets
those of attention's projections if they differ from layer to layer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit.adapters.base import adapter_of
from toolkit.core.errors import DtkError
from toolkit.importing.addons import Addon, Pruned, read_tensors, write_tensors

KIND = "LoRA"
PART = re.compile(
    r"(?P<layer>.+?)(?P<end>[._]lora[._](A|B|down|up)(\.default)?\.(weight|bias)|\.alpha)"
)  # peft: .lora_A.weight; diffusers before it: .lora.down.weight, _lora.down.weight; kohya: .lora_down.weight, .alpha
ALPHA = ".alpha"
INPUTS = re.compile(r"lora[._](A|down)")
TEXT = ("text_encoder", "lora_te")
OTHERS = {
    "dora_scale": "DoRA, whose magnitudes are of whole rows",
    "lora_magnitude_vector": "DoRA, whose magnitudes are of whole rows",
    "hada_": "LoHa, a product entry by entry",
    "lokr_": "LoKr, a Kronecker product",
    "oft_": "OFT, a rotation",
    "lora_mid": "a LoRA of three factors (Tucker)",
    ".diff": "whole differences of weights",
}
METADATA = "lora_adapter_metadata"  # peft's configuration, as diffusers stores it


def recognises(source: Path) -> bool:
    """Whether this is a file of low-rank updates, of a kind that can be carried or not."""
    return source.suffix == ".safetensors" and any(
        PART.fullmatch(name) or any(mark in name for mark in OTHERS) for name in read_tensors(source)[0]
    )


def carry(source: Path, target: Path, pruned: Pruned) -> Addon:
    """Write the sliced LoRA into the folder ``target`` under its own name, in the layout it has.

    Parts for text encoders pass as they are. Raises DtkError for one of another kind or of another model, or if all
    that it changes has gone.
    """
    tensors, metadata = read_tensors(source)
    _refuse_others(source, tensors)
    unchanged = {name: tensor for name, tensor in tensors.items() if name.startswith(TEXT)}
    sliced, removed = _sliced(source, {n: t for n, t in tensors.items() if n not in unchanged}, pruned)
    if not sliced and not unchanged:
        raise DtkError(f"All that {source} changes was removed.", found=f"{len(removed)} layers: {', '.join(removed)}")
    if METADATA in metadata:
        metadata = metadata | {METADATA: json.dumps(_relabelled(json.loads(metadata[METADATA]), pruned))}
    write_tensors(target / source.name, sliced | unchanged, metadata)
    return Addon(KIND, str(target / source.name), len(_layers(sliced)), len(_layers(unchanged)), removed)


def _layers(names: Iterable[str]) -> set[str]:
    return {match["layer"] for name in names if (match := PART.fullmatch(name))}


def _refuse_others(source: Path, names: Iterable[str]) -> None:
    for name in names:
        kind = next((kind for mark, kind in OTHERS.items() if mark in name), None)
        if kind:
            raise DtkError(
                f"{source} is no plain LoRA: dtk cannot slice it.",
                found=f"{name}: {kind}",
                expected="an update that is a product of two matrices",
                do="merge it into the dense model (pipeline.fuse_lora(), save_pretrained) and compress that",
            )


def _sliced(
    source: Path, tensors: Mapping[str, torch.Tensor], pruned: Pruned
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The factors of the denoiser under their new names, and why layers are left out."""
    layers = _spelled(pruned)
    sliced: dict[str, torch.Tensor] = {}
    removed: dict[str, str] = {}
    for name, tensor in tensors.items():
        match = PART.fullmatch(name)
        if not match or match["layer"] not in layers:
            raise _unknown(source, name, pruned)
        layer, spell = layers[match["layer"]]
        new, end = pruned.rename(f"{layer}.weight"), match["end"]
        if new is None:
            removed[layer] = "its block was removed"
        elif not pruned.slices(f"{layer}.weight"):
            removed[layer] = "it was fitted anew, not sliced"
        elif end != ALPHA:
            alpha = tensors.get(match["layer"] + ALPHA)
            scale = 1.0 if alpha is None or INPUTS.search(end) else float(alpha) / tensor.shape[1]
            factor = _slice(source, name, tensor, f"{layer}.weight", pruned, 1 if INPUTS.search(end) else 0)
            sliced[spell(new.removesuffix(".weight")) + end] = factor * scale
    return sliced, removed


def _slice(source: Path, name: str, tensor: torch.Tensor, weight: str, pruned: Pruned, dim: int) -> torch.Tensor:
    """The columns of A (``dim`` 1), or the rows of B or its bias (0), that stay in the layer's weight."""
    size = pruned.dense_shapes[weight][dim]
    if tensor.shape[dim] != size:
        raise DtkError(
            f"{source} was made for another model.",
            found=f"{name} {tuple(tensor.shape)}",
            expected=f"{size} in dimension {dim}, as {weight} of the dense model has",
        )
    kept = pruned.plan.kept_indices(weight, dim)
    scale = pruned.scales.get(weight, 1.0) if dim == 0 else 1.0
    return (tensor if kept is None else tensor.index_select(dim, torch.from_numpy(kept))) * scale


def _unknown(source: Path, name: str, pruned: Pruned) -> DtkError:
    return DtkError(
        f"{source} changes a layer that the dense model does not have.",
        found=name,
        expected=f"layers of a {pruned.plan.class_name} as peft, diffusers or kohya spell them",
    )


def _spelled(pruned: Pruned) -> dict[str, tuple[str, Callable[[str], str]]]:
    """A layer of the denoiser as a file may spell it: its name, and what spells its new name."""
    layers = [tensor.removesuffix(".weight") for tensor in pruned.dense_shapes if tensor.endswith(".weight")]
    component = adapter_of(pruned.plan.class_name).component
    return {spell(layer): (layer, spell) for spell in _spellings(component) for layer in layers}


def _spellings(component: str) -> Iterator[Callable[[str], str]]:
    yield lambda layer: layer
    yield lambda layer: f"{component}.{layer}"
    yield lambda layer: f"lora_{component}_" + layer.replace(".", "_")

    def processor(layer: str) -> str:  # only attention's projections: attn1.processor.to_q_lora.down.weight
        place, _, projection = layer.removesuffix(".0").rpartition(".")
        return f"{component}.{place}.processor.{projection}"

    yield processor


def _relabelled(value: Any, pruned: Pruned) -> Any:
    """The configuration of peft with the new names of layers, without those that are removed."""
    if isinstance(value, list):
        return [new for entry in value if (new := _relabelled(entry, pruned)) is not None]
    if isinstance(value, dict):
        entries = ((_new_name(key, pruned), _relabelled(entry, pruned)) for key, entry in value.items())
        return {key: entry for key, entry in entries if key is not None}
    return _new_name(value, pruned) if isinstance(value, str) else value


def _new_name(layer: str, pruned: Pruned) -> str | None:
    start = "^" if layer.startswith("^") else ""
    weight = f"{layer.removeprefix('^')}.weight"
    if weight not in pruned.dense_shapes:
        return layer
    new = pruned.rename(weight)
    return None if new is None else start + new.removesuffix(".weight")
