"""Every adapter is that of a diffusers class, and what it says of its inputs is what the class takes."""

from __future__ import annotations

import diffusers
import pytest

from tests.tiny import tiny_conditional_unet, tiny_dit, tiny_unet
from toolkit.adapters.base import known_adapters
from toolkit.adapters.inputs import example_inputs, input_specs, positional

TINY = {"UNet2DModel": tiny_unet, "UNet2DConditionModel": tiny_conditional_unet, "DiTTransformer2DModel": tiny_dit}


def test_every_adapter_has_a_tiny_model_to_try_it_on() -> None:
    assert set(known_adapters()) == set(TINY)


@pytest.mark.parametrize("class_name", TINY)
def test_a_model_of_the_class_takes_the_inputs_that_its_adapter_names(class_name: str) -> None:
    model = TINY[class_name]()
    assert isinstance(model, getattr(diffusers, class_name))
    first, named = positional(example_inputs(input_specs(class_name, model.config, tokens=3), 2))
    assert len(model(*first, **named, return_dict=False)[0]) == 2
