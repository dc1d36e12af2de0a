"""Tensors that pretend to lie on a GPU: like torch, they refuse to be computed with tensors of the CPU.

No GPU is needed, and unlike fake tensors these hold values, so that code may look at them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only


class ElsewhereTensor(torch.Tensor):
    """A tensor on a device of its own; ``.cpu()`` and ``.to(...)`` bring it to the CPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        plain = tree_map_only(ElsewhereTensor, lambda tensor: tensor.as_subclass(torch.Tensor), (args, kwargs))
        if name in ("cpu", "to", "numpy", "__array__"):
            return func(*plain[0], **plain[1])
        if any(type(leaf) is torch.Tensor and leaf.dim() > 0 for leaf in leaves):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found two devices in {name}")
        result = func(*plain[0], **plain[1])
        return tree_map_only(torch.Tensor, lambda tensor: tensor.as_subclass(cls), result)


def elsewhere(tensor: torch.Tensor) -> torch.Tensor:
    """The same values on another device."""
    return tensor.detach().clone().as_subclass(ElsewhereTensor)
