"""The CIFAR-10 ResNet-56 of He et al. (2016), section 4.2, as a TorchScript file of features for `dtk evaluate`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions and a parameter-free shortcut (option A: subsampled, new channels zero)."""

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.side = stride, (planes - planes_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(inner + functional.pad(kept, [0, 0, 0, 0, self.side, self.side]))


class CifarResNet(nn.Module):
    """Pixels (B, 3, 32, 32) in [0, 255] to 64 mean-pooled features; depth = 6 n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(Block(32 if i else 16, 32, 1 if i else 2) for i in range(blocks)))
        self.layer3 = nn.Sequential(*(Block(64 if i else 32, 64, 1 if i else 2) for i in range(blocks)))
        self.mean = nn.Buffer(torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1((pixels / 255 - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


def load(path: Path, depth: int = 56) -> CifarResNet:
    """The published weights (``resnet56-*.th``) without the last linear layer."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    tensors = {name.removeprefix("module."): value for name, value in state.items()}
    network = CifarResNet(depth)
    found = network.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("linear.")}, strict=False)
    if found.unexpected_keys or set(found.missing_keys) != {"mean", "std"}:
        raise SystemExit(f"{path} is not a CIFAR-10 ResNet-{depth}: {found}")
    return network.eval()


def write_script(source: Path, target: Path) -> None:
    """Write the features of the weights ``source`` as TorchScript."""
    torch.jit.save(torch.jit.script(load(source)), target)
