"""Another code base's checkpoint: tensors, read without running any code of it, and a stock model filled with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ModelMixin

from toolkit.core.errors import DtkError, first_line
from toolkit.models.weights import check_finite

Weights = Literal["ema", "plain"]
Tensors = dict[str, torch.Tensor]


class _Inert:
    """Stands for a class that a checkpoint only mentions; it has no code and takes no arguments."""


MENTIONED = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)
"""Classes that Lightning's checkpoints (CompVis) use as keys next to their tensors."""

AVERAGE = "model_ema."


def read(path: Path, weights: Weights) -> Tensors:
    """The tensors of a checkpoint, by name: float32, without DataParallel's prefix.

    ``weights`` chooses between the average that sampling uses ("ema") and the weights themselves ("plain") if the
    file holds both. Known are a state dict, the list of states of the DDIM code base (model, optimiser, epoch, step,
    average), and a mapping with ``state_dict``, in which CompVis keeps averages as ``model_ema``. Raises DtkError for
    a file that holds anything else, or needs code.
    """
    return {name.removeprefix("module."): tensor.float() for name, tensor in _chosen(load(path), weights, path)}


def load(path: Path) -> Any:
    """What a file of torch holds, read without running code. Raises DtkError for one that needs code, or is damaged."""
    if not path.is_file():
        raise DtkError(f"No such checkpoint: {path}.", expected="a .ckpt or .pth file")
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in MENTIONED]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports what a file is not by errors of many kinds
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise DtkError(
                f"{path} holds more than tensors: to load it would run code that it brings along.",
                found=first_line(error, "Unsupported"),
                expected="a state dict, which torch.load(..., weights_only=True) reads",
                do="if you trust it, load it with the code that wrote it and save model.state_dict()",
            ) from error
        raise DtkError(f"{path} is no checkpoint of torch, or is damaged.", found=first_line(error)) from error


def _chosen(content: Any, weights: Weights, path: Path) -> list[tuple[str, torch.Tensor]]:
    if isinstance(content, list | tuple) and content and isinstance(content[0], dict):
        averages = [state for state in content[2:] if tensors_of(state)]
        content = averages[-1] if weights == "ema" and averages else content[0]
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = tensors_of(content)
    if weights == "ema":
        shadows = {name: tensor for name, tensor in tensors if name.startswith(AVERAGE)}
        tensors = [(name, shadows.get(_average_of(name), tensor)) for name, tensor in tensors]
    if not tensors:
        raise DtkError(
            f"{path} holds no tensors by name.",
            found=type(content).__name__,
            expected="a state dict, a list of states, or a mapping with state_dict",
        )
    return tensors


def _average_of(name: str) -> str:
    """What CompVis calls the average of a tensor (LitEma, which leaves out the dots)."""
    return f"{AVERAGE}{name.removeprefix('model.').replace('.', '')}"


def tensors_of(state: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a state dict with their names."""
    if not isinstance(state, dict):
        return []
    return [(k, v) for k, v in state.items() if isinstance(k, str) and isinstance(v, torch.Tensor)]


def fill(kind: type[ModelMixin], config: Mapping[str, Any], tensors: Tensors) -> ModelMixin:
    """A model of the class and configuration with exactly these tensors.

    Raises DtkError if a tensor is missing, left over, of another shape than the configuration's, or not finite.
    """
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in kind(**config).state_dict().items()}
    wrong = [f"missing {name}" for name in shapes.keys() - tensors.keys()]
    wrong += [f"unexpected {name}" for name in tensors.keys() - shapes.keys()]
    wrong += [
        f"{name} {tuple(tensors[name].shape)} for {shapes[name]}"
        for name in shapes.keys() & tensors.keys()
        if tuple(tensors[name].shape) != shapes[name]
    ]
    if wrong:
        raise DtkError(
            f"The checkpoint does not fit {kind.__name__}.",
            found="; ".join(sorted(wrong)[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            expected="the published layout, not pruned tensor by tensor",
        )
    check_finite(tensors, "the checkpoint")
    model = kind(**config)
    model.load_state_dict({name: tensors[name] for name in shapes})
    return model.eval()
