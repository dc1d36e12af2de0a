"""From named tensors to a stock model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin

from toolkit.errors import DtkError
from toolkit.importing.checkpoint import Tensors
from toolkit.weights import check_finite


def fill(kind: type[ModelMixin], config: Mapping[str, Any], tensors: Tensors) -> ModelMixin:
    """A model of the class and configuration with exactly these tensors.

    Raises DtkError where a tensor is missing, left over, of another shape than the configuration's, or not finite.
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
