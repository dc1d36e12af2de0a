"""Distances between real pictures against values that another implementation found for the same network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.cifar_resnet import load
from toolkit.core.files import file_sha256
from toolkit.evaluation.distances import frechet_distance, kernel_distance
from toolkit.evaluation.features import Extractor

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="CIFAR-10 and its ResNets are not here (../shared/data)"),
]


def sheet(name):
    pixels = np.asarray(Image.open(DATA / "cifar10" / f"{name}.webp").convert("RGB"))
    return pixels.reshape(50, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(5000, 32, 32, 3)


def noisy(images):
    noise = np.random.default_rng(0).normal(0, 10, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def halved(images):
    pooled = images.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    return pooled.repeat(2, axis=1).repeat(2, axis=2).round().astype(np.uint8)


@pytest.fixture(scope="module")
def features():
    weights = next((DATA / "cifar-resnet").glob("resnet20-*.th"))

    def opened():
        return load(str(weights), 20).to(memory_format=torch.channels_last)  # in a third less time

    extractor = Extractor("CIFAR ResNet-20", file_sha256(weights), opened)
    test = sheet("test-00")
    sets = {"train00": sheet("train-00"), "test00": test, "test00_noise10": noisy(test), "test00_down2": halved(test)}
    return {name: extractor(images) for name, images in sets.items()}


@pytest.fixture(scope="module")
def published():
    return json.loads((DATA / "fid_reference_cifar_resnet.json").read_text())


PAIRS = ["train00|test00", "test00|test00_noise10", "test00|test00_down2"]


@pytest.mark.parametrize("pair", PAIRS)
def test_frechet_distance(pair, features, published):
    first, second = pair.split("|")
    expected = published[f"resnet20-12fca82f:{pair}"]["fid_eig"]
    assert frechet_distance(features[first], features[second]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("pair", PAIRS)
def test_kernel_distance(pair, features, published):
    first, second = pair.split("|")
    expected = published[f"resnet20-12fca82f:{pair}"]["kid"]
    assert kernel_distance(features[first], features[second]) == pytest.approx(expected, abs=1e-4)
