"""A user's own feature network as a TorchScript file, such as the Inception network that FID is defined by."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import file_sha256
from toolkit.evaluation.features import Extractor, ExtractorKind


def scripted(path: Path, device: str = "cpu") -> Extractor:
    """The network of a TorchScript file: pixels (B, 3, H, W) in [0, 255] to features (B, D).

    That is the form of ``inception-2015-12-05.pt``, which resizes and normalises by itself and gives its 2,048 pooled
    features when called with ``return_features``; with it the Frechet distance is the FID. The file's hash stands
    with every figure.
    """
    return Extractor(path.stem, file_sha256(path), lambda: ScriptedFeatures(path), device)


class ScriptedFeatures(nn.Module):
    """Calls the network for its features and checks that it gives one vector per image."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(path, map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            raise DtkError(
                f"{path} is not a TorchScript network.",
                found=first_line(error),
                expected="a file that torch.jit.save wrote; weights by themselves do not say what to compute",
            ) from error
        arguments = [argument.name for argument in self.network.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in arguments else {}
        self.path = path

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.network(pixels, **self.options)
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(pixels):
            shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise DtkError(
                f"{self.path} gives no features.", found=shape, expected=f"one vector per image: ({len(pixels)}, D)"
            )
        return features


EXTRACTOR = ExtractorKind(
    "torchscript",
    "a file's own network, such as the Inception that FID is defined by: --features FILE",
    lambda requested, device: scripted(Path(requested), device),
    reads_files=True,
)
