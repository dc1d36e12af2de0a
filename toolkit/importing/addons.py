"""What add-ons of a dense model (LoRA, textual inversion, ControlNet) share on their way to the compressed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from toolkit.adapters.base import adapter_of
from toolkit.adapters.blocks import Rename
from toolkit.core.errors import DtkError
from toolkit.core.files import replacing
from toolkit.models.build import build_model, full_config
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import check_finite
from toolkit.pruning.plan import Plan
from toolkit.pruning.surgery import query_scales


@dataclass(frozen=True)
class Addon:
    """What was carried: how many layers were sliced, how many pass unchanged, and why each removed one is left out.

    ``time_error`` is the relative error of a time embedding that was fitted, 0 if none was.
    """

    kind: str
    file: str
    sliced: int
    unchanged: int
    removed: Mapping[str, str] = field(default_factory=dict)
    time_error: float = 0.0


@dataclass(frozen=True)
class Pruned:
    """How the model in ``folder`` became ``compressed`` by ``plan``; weights are not read."""

    folder: ModelFolder
    compressed: ModelFolder
    plan: Plan

    @cached_property
    def dense(self) -> ModelMixin:
        """The dense denoiser, shapes only."""
        return build_model(self.plan.class_name, full_config(self.folder))

    @cached_property
    def narrow(self) -> ModelMixin:
        """The compressed denoiser, shapes only."""
        return build_model(self.plan.class_name, self.plan.config)

    @cached_property
    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.dense.state_dict().items()}

    @cached_property
    def rename(self) -> Rename:
        """What a tensor of the dense denoiser is called in the compressed one."""
        rules, config = adapter_of(self.plan.class_name).blocks, full_config(self.folder)
        return rules.rename(config, self.plan.blocks) if self.plan.blocks else (lambda tensor: tensor)

    @cached_property
    def scales(self) -> dict[str, float]:
        """What surgery multiplies the kept rows of a dense tensor by."""
        return query_scales(self.dense, self.narrow, self.rename)

    def slices(self, weight: str) -> bool:
        """Whether slicing alone leads from a dense weight to the shape of the compressed one."""
        new = self.rename(weight)
        if new is None:
            return False
        kept = (self.plan.kept_indices(weight, dim) for dim in (0, 1))
        sizes = [n if k is None else len(k) for n, k in zip(self.dense_shapes[weight][:2], kept, strict=False)]
        return sizes == list(self.narrow.state_dict()[new].shape[:2])


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. Raises DtkError for a damaged one, NaN and infinity."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DtkError(f"Cannot read {path}.", found=error, expected="a safetensors file") from error
    check_finite(tensors, str(path))
    return tensors, metadata


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt", **metadata})
