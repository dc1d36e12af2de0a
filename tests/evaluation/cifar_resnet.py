"""The CIFAR-10 ResNets of He et al. (2016), section 4.2, as far as their pooled features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.added = stride, planes - planes_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]  # option A: subsample, new channels are zero
        return functional.relu(inner + functional.pad(kept, (0, 0, 0, 0, self.added // 2, self.added // 2)))


class CifarResNet(nn.Module):
    """Pixels (B, 3, 32, 32) in [0, 255] to 64 features: depth = 6 n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(Block(32 if i else 16, 32, 1 if i else 2) for i in range(blocks)))
        self.layer3 = nn.Sequential(*(Block(64 if i else 32, 64, 1 if i else 2) for i in range(blocks)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        x = functional.relu(self.bn1(self.conv1((pixels / 255 - mean) / std)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


def load(path: str, depth: int) -> CifarResNet:
    """The published weights without the last linear layer."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    tensors = {name.removeprefix("module."): value for name, value in state.items()}
    network = CifarResNet(depth)
    network.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("linear.")})
    return network.eval()
