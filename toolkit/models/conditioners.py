"""What turns a class, a caption or nothing at all into inputs of a denoiser; one class for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.data.conditions import Condition
from toolkit.models.autoencoder import image_shape
from toolkit.models.captions import CaptionEncoder
from toolkit.models.conditioning import CLASS_EMBEDDING, Conditioning, class_ids, find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import check_finite

if TYPE_CHECKING:
    import torch


class Conditioner(Protocol):
    """Turns conditions into inputs of the denoiser."""

    conditioning: Conditioning

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        """The inputs by name, one row per condition, on the device the conditioner was opened for.

        Raises DtkError for a condition of another kind, an unknown class, or None if there is no null condition.
        """
        ...


def open_conditioner(model: ModelFolder, device: str = "cpu") -> Conditioner:
    """The conditioner of ``model`` with its weights. Raises DtkError if its files are damaged."""
    conditioning = find_conditioning(model)
    if conditioning.kind == "none":
        return Unconditional(conditioning)
    if conditioning.kind == "caption":
        return CaptionEncoder.load(model, image_shape(model)[1:], conditioning, device)
    if conditioning.tokens:
        return ClassEmbedding(model.root / CLASS_EMBEDDING, conditioning, device)
    return ClassLabels(conditioning, device)


class Unconditional:
    """The denoiser takes nothing but the sample and the timestep."""

    def __init__(self, conditioning: Conditioning) -> None:
        self.conditioning = conditioning

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        return {}


class ClassLabels:
    """The denoiser embeds class ids itself; the null class is the id after the last."""

    def __init__(self, conditioning: Conditioning, device: str) -> None:
        self.conditioning, self.device = conditioning, device

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        import torch

        return {"class_labels": torch.tensor(class_ids(conditions, self.conditioning), device=self.device)}


class ClassEmbedding:
    """A table of vectors (classes, D), the null class's behind them, gives a context of one token."""

    def __init__(self, path: Path, conditioning: Conditioning, device: str) -> None:
        from safetensors.torch import load_file

        tensors = load_file(path)
        check_finite(tensors, str(path))
        ((_, table),) = tensors.items()
        self.conditioning, self.table = conditioning, table.float().to(device)

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        rows = self.table[class_ids(conditions, self.conditioning)]
        return {"encoder_hidden_states": rows[:, None]}
