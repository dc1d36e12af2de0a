"""The narrower sinusoid follows the dense one."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from tests.elsewhere import elsewhere
from toolkit.adapters.text_time import LARGEST_ID, TextTime, narrowed_ids
from toolkit.adapters.unet import narrowed
from toolkit.core.noise import generator, normal
from toolkit.pruning.time_embedding import refit, refit_ids, refit_time, sinusoid

T = 1000


def config(width: int, shift: float, flip: bool) -> dict:
    return {"block_out_channels": [width], "freq_shift": shift, "flip_sin_to_cos": flip}


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    ("dense", "narrow", "tolerance"), [(128, 96, 1e-6), (192, 128, 1e-6), (320, 256, 1e-6), (32, 24, 1e-5)]
)
def test_refit_layer_gives_the_dense_embedding(
    dense: int, narrow: int, tolerance: float, shift: int, flip: bool
) -> None:
    """Through diffusers' own modules, in float32, over every timestep."""
    layers = [TimestepEmbedding(width, 4 * dense) for width in (dense, narrow)]
    weight = torch.from_numpy(normal("weight", 0, shape=(4 * dense, dense))) / dense**0.5
    bias = torch.from_numpy(normal("bias", 0, shape=(4 * dense,))) * 0.1
    narrow_shift = shift - (dense - narrow) // 2
    (new_weight, new_bias), error = refit_time(
        (weight, bias), config(dense, shift, flip), config(narrow, narrow_shift, flip), T
    )
    outputs = []
    for layer, (w, b), s, width in zip(
        layers, ((weight, bias), (new_weight, new_bias)), (shift, narrow_shift), (dense, narrow), strict=True
    ):
        with torch.no_grad():
            outputs.append(torch.nn.functional.linear(Timesteps(width, flip, s)(torch.arange(T)), w, b))
        assert layer.linear_1.weight.shape == w.shape
    measured = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    assert error < tolerance
    assert measured < tolerance + 2e-6  # float32 sinusoids


def test_a_narrower_unet_keeps_the_frequencies_of_the_dense_one() -> None:
    """Each column of its sinusoid is one of the dense sinusoid's."""
    dense = config(128, 0, True) | {"time_embedding_dim": None}
    narrow = narrowed(dense, [96], {})
    old, new = (sinusoid(one, one["block_out_channels"][0], T) for one in (dense, narrow))
    assert (old.T[:, None] - new.T).abs().amax(2).amin(0).max() < 1e-4  # float32 sinusoids


def test_half_of_the_frequencies_cannot_carry_all_of_it() -> None:
    """Half the width of a narrow level loses function, and the error says so instead of hiding it."""
    weight = torch.from_numpy(normal("weight", 0, shape=(128, 32)))
    _, error = refit_time((weight, torch.zeros(128)), config(32, 0, True), config(16, -8, True), T)
    assert 0.1 < error < 1


@pytest.mark.parametrize(("narrow", "tolerance"), [(96, 3e-3), (64, 3e-2)])
def test_half_precision_can_bear_the_new_weights(narrow: int, tolerance: float) -> None:
    weight = torch.from_numpy(normal("weight", 0, shape=(512, 128))) / 128**0.5
    narrow_config = config(narrow, -(128 - narrow) // 2, True)
    (new_weight, new_bias), _ = refit_time((weight, torch.zeros(512)), config(128, 0, True), narrow_config, T)
    wanted = sinusoid(config(128, 0, True), 128, T) @ weight.double().T
    got = sinusoid(narrow_config, narrow, T) @ new_weight.bfloat16().double().T + new_bias.bfloat16().double()
    assert (got - wanted).abs().max() / wanted.abs().max() < tolerance


def test_weights_on_a_gpu_are_fitted_as_those_of_the_cpu() -> None:
    weight, bias = (torch.from_numpy(normal("weight", n, shape=s)) for n, s in enumerate(((128, 32), (128,))))
    configs = config(32, 0, True), config(24, -4, True)
    expected, _ = refit_time((weight, bias), *configs, T)
    found, _ = refit_time((elsewhere(weight), elsewhere(bias)), *configs, T)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_tensor_elsewhere_refuses_to_be_mixed() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        _ = torch.ones(2, 2) @ elsewhere(torch.ones(2, 2))


SDXL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "flip_sin_to_cos": True, "freq_shift": 0}
BASE = SDXL | {"cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 2816}
REFINER = SDXL | {"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560}


def narrower_ids(dense: dict, lost: int) -> dict:
    return {**dense, "freq_shift": dense["freq_shift"] - lost, **narrowed_ids(dense, lost)}


@pytest.mark.parametrize(
    ("dense", "lost", "exactness"), [(BASE, 32, 1e-6), (BASE, 80, 1e-6), (REFINER, 48, 1e-6), (REFINER, 96, 2e-5)]
)
def test_the_sizes_mean_the_same_to_a_narrower_sdxl(dense: dict, lost: int, exactness: float) -> None:
    """Through diffusers' own modules, between whole pixels as well, in float32 and with weights in bfloat16."""
    narrow = narrower_ids(dense, lost)
    ids = dense["projection_class_embeddings_input_dim"] - 1280
    added = TextTime(1280, ids // 256)
    weight = torch.from_numpy(normal("weight", 0, shape=(48, 1280 + ids))) / ids**0.5
    (new_weight, new_bias), error = refit_ids((weight, torch.zeros(48)), dense, narrow, added)
    assert new_weight.shape[1] == narrow["projection_class_embeddings_input_dim"]
    assert torch.equal(new_weight[:, :1280], weight[:, :1280]) and error < exactness
    drawn = torch.from_numpy(generator("ids", 0).uniform(0, LARGEST_ID - 1, (200, added.ids))).float()
    pooled = torch.from_numpy(normal("pooled", 0, shape=(200, 1280)))

    def embedded(config: dict, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        project = Timesteps(config["addition_time_embed_dim"], config["flip_sin_to_cos"], config["freq_shift"])
        sizes = project(drawn.flatten()).reshape(200, -1)
        return torch.nn.functional.linear(torch.cat([pooled, sizes], 1), weight, bias)

    wanted = embedded(dense, weight, torch.zeros(48))
    exact = (embedded(narrow, new_weight, new_bias) - wanted).abs().max() / wanted.abs().max()
    rounded = (embedded(narrow, new_weight.bfloat16().float(), new_bias) - wanted).abs().max() / wanted.abs().max()
    plain = (embedded(dense, weight.bfloat16().float(), torch.zeros(48)) - wanted).abs().max() / wanted.abs().max()
    assert exact < exactness + 5e-6  # float32 sinusoids of thousands
    assert rounded < 10 * plain  # what bfloat16 costs the dense layer


def test_as_many_frequencies_of_sizes_as_before_would_lose_half_of_the_embedding() -> None:
    weight = torch.from_numpy(normal("weight", 0, shape=(48, 256)))
    as_many = sinusoid(BASE | {"freq_shift": -32}, 256, LARGEST_ID)
    _, error = refit((weight, torch.zeros(48)), sinusoid(BASE, 256, LARGEST_ID), as_many)
    assert error > 0.3
