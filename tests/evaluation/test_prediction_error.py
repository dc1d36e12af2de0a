"""The curve over timesteps against diffusers' own noising, one timestep at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import tiny_folder
from toolkit.core.noise import normal
from toolkit.data.images import Images
from toolkit.evaluation.prediction_error import prediction_errors
from toolkit.models.build import load_denoiser
from toolkit.models.schedulers import load_scheduler


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tiny_folder(folder / "dense"), tiny_folder(folder / "compressed", seed=1)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return Images("pictures", (3, 8, 8), "0", tuple(range(6)), lambda number: pixels[number])


def test_equals_a_plain_computation(models, images):
    found = prediction_errors(*models, images, seed=2, points=4)
    assert found["timesteps"] == [0, 33, 66, 99]
    assert found["images"] == 6
    assert found["prediction_type"] == "epsilon"
    clean, alphas = torch.from_numpy(images.read(range(6))), load_scheduler(models[0]).alphas_cumprod
    dense, compressed = (load_denoiser(model) for model in models)
    for place, t in enumerate(found["timesteps"]):
        noise = torch.from_numpy(np.stack([normal("prediction error", 2, n, t, shape=(3, 8, 8)) for n in range(6)]))
        x = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise
        with torch.no_grad():
            one, other = dense(x, t).sample, compressed(x, t).sample
        expected = {"dense": one - noise, "compressed": other - noise, "compressed_against_dense": other - one}
        for name, gap in expected.items():
            assert found[name][place] == pytest.approx(float(gap.square().mean()), rel=1e-4)


def test_a_model_does_not_differ_from_itself(models, images):
    found = prediction_errors(models[0], models[0], images, seed=0, points=3)
    assert found["compressed_against_dense"] == [0, 0, 0]
    assert found["dense"] == found["compressed"]


@pytest.mark.slow
def test_timesteps_do_not_repeat(models, images):
    assert len(prediction_errors(models[0], models[0], images, seed=0, points=200)["timesteps"]) == 100
