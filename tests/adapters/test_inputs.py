"""What a denoiser takes, read off its config, and held against the real classes."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel, ModelMixin, UNet2DConditionModel

from tests.tiny import tiny_unet
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.core.errors import DtkError


def condition_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=(8, 16),
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, num_embeds_ada_norm=10
    )


MODELS = {
    "unconditional": tiny_unet,
    "labelled": lambda: tiny_unet(num_class_embeds=5),
    "oblong": lambda: tiny_unet(sample_size=(8, 16)),
    "text": condition_unet,
    "transformer": dit,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_real_class_takes_them(kind: str, batch: int) -> None:
    model: ModelMixin = MODELS[kind]().eval()
    specs = input_specs(type(model).__name__, model.config, tokens=6)
    inputs = example_inputs(specs, batch)
    if kind == "transformer":
        inputs["hidden_states"] = inputs.pop("sample")
    with torch.no_grad():
        prediction = model(**inputs).sample
    assert prediction.shape == (batch, model.config.in_channels, *specs["sample"].shape[1:])


def test_an_item_does_not_depend_on_its_batch() -> None:
    specs = input_specs("UNet2DModel", tiny_unet(num_class_embeds=5).config)
    one, many = example_inputs(specs, 1), example_inputs(specs, 4)
    assert all(torch.equal(one[name][0], many[name][0]) for name in specs)
    assert not torch.equal(many["sample"][0], many["sample"][1])
    assert not torch.equal(one["sample"], example_inputs(specs, 1, seed=1)["sample"])


def test_integers_stay_in_range() -> None:
    specs = input_specs("UNet2DModel", tiny_unet(num_class_embeds=5).config, timesteps=10)
    inputs = example_inputs(specs, 200)
    assert set(inputs["timestep"].tolist()) == set(range(10))
    assert set(inputs["class_labels"].tolist()) == set(range(5))


def test_meta_inputs_have_shapes_alone() -> None:
    specs = input_specs("UNet2DModel", tiny_unet().config)
    real, shapes = example_inputs(specs, 2), example_inputs(specs, 2, device="meta")
    assert {name: (t.shape, t.dtype) for name, t in real.items()} == {n: (t.shape, t.dtype) for n, t in shapes.items()}
    assert all(tensor.is_meta for tensor in shapes.values())


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(DtkError, match="no sample_size"):
        input_specs("UNet2DModel", {"in_channels": 3, "sample_size": None})


def test_an_unknown_class_names_the_known() -> None:
    with pytest.raises(DtkError, match=r"Unknown model class 'VQModel'[\s\S]*UNet2DModel"):
        input_specs("VQModel", {})


@pytest.mark.parametrize("kind", ["projection", "simple_projection", "identity"])
def test_class_embeddings_that_take_vectors_are_refused(kind: str) -> None:
    with pytest.raises(DtkError, match=f"Class embeddings of type '{kind}' are not supported"):
        input_specs("UNet2DModel", {"in_channels": 3, "sample_size": 8, "class_embed_type": kind})
