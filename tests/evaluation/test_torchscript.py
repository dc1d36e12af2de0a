"""A user's own network: called for its features, named by its file, refused in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256
from toolkit.evaluation.features import open_extractor


class Plain(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=[2, 3])


class LikeInception(torch.nn.Module):
    """Class scores unless asked for features, as the published Inception file does."""

    def forward(self, pixels: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        features = pixels.mean(dim=[2, 3])
        return features if return_features else features.sum(dim=1, keepdim=True)


class Maps(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels / 2


def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def saved(network, path):
    torch.jit.script(network).save(str(path))
    return str(path)


@pytest.mark.parametrize("network", [Plain, LikeInception])
def test_gives_the_networks_features(network, tmp_path):
    path = saved(network(), tmp_path / "own.pt")
    extractor = open_extractor(path)
    np.testing.assert_allclose(extractor(images()), images().mean(axis=(1, 2)), rtol=1e-5)
    assert extractor.name == "own"
    assert extractor.sha256 == file_sha256(tmp_path / "own.pt")


def test_a_network_without_vectors(tmp_path):
    with pytest.raises(DtkError, match="gives no features") as error:
        open_extractor(saved(Maps(), tmp_path / "maps.pt"))(images())
    assert "one vector per image: (3, D)" in str(error.value)


def test_weights_alone_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(DtkError, match="is not a TorchScript network"):
        open_extractor(str(tmp_path / "weights.pth"))(images())


def test_something_else_entirely(tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(DtkError, match="is not a TorchScript network"):
        open_extractor(str(tmp_path / "notes.txt"))(images())
