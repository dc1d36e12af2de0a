"""The laws of surgery over random small configurations, not over chosen ones alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import ModelMixin
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.pruning.cases import inputs_of, prunable_of, random_scores
from tests.pruning.reference import permute, silenced, sliced
from tests.tiny import tiny_conditional_unet, tiny_unet
from toolkit.models.build import plain_config
from toolkit.pruning import surgery
from toolkit.pruning.prunable import Prunable

T = 100


def levels(draw: st.DrawFn, plain: str, attention: str) -> dict[str, object]:
    """Two or three levels of random widths, each with attention or without, the way up mirroring the way down."""
    count = draw(st.integers(2, 3))
    attends = [draw(st.booleans()) for _ in range(count)]
    down = [f"{attention if there else plain}DownBlock2D" for there in attends]
    return {
        "block_out_channels": tuple(draw(st.sampled_from((16, 24, 32, 40))) for _ in range(count)),
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "layers_per_block": draw(st.integers(1, 2)),
        "norm_num_groups": draw(st.sampled_from((1, 2, 4, 8))),
        "num_class_embeds": draw(st.sampled_from((None, 5))),
    }


@st.composite
def unconditional(draw: st.DrawFn) -> ModelMixin:
    changes: dict[str, object] = {
        "attention_head_dim": draw(st.sampled_from((None, 4, 8))),
        "downsample_padding": draw(st.sampled_from((0, 1))),
        "resnet_time_scale_shift": draw(st.sampled_from(("default", "scale_shift"))),
        "downsample_type": draw(st.sampled_from(("conv", "resnet"))),
        "upsample_type": draw(st.sampled_from(("conv", "resnet"))),
    }
    return tiny_unet(**levels(draw, "", "Attn"), **changes)


@st.composite
def conditional(draw: st.DrawFn) -> ModelMixin:
    changes: dict[str, object] = {
        "attention_head_dim": draw(st.sampled_from((1, 2, 4))),
        "use_linear_projection": draw(st.booleans()),
        "transformer_layers_per_block": draw(st.integers(1, 2)),
    }
    return tiny_conditional_unet(**levels(draw, "", "CrossAttn"), **changes)


def computed(model: ModelMixin, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(unconditional(), conditional()), st.sampled_from(("within", "whole")), st.data())
def test_surgery_preserves_the_function(dense: ModelMixin, policy: str, data: st.DataObject) -> None:
    prunable, inputs = prunable_of(dense, policy), inputs_of(dense)
    assert_whole(dense, prunable)
    narrower = [values for values in prunable.space if values != prunable.space.dense_values]
    assume(narrower)  # levels may be so narrow that none may lose a channel
    config = prunable.space.configure(data.draw(st.sampled_from(narrower)))
    kept = prunable.kept(random_scores(prunable), config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, T)
    expected = computed(silenced(dense, prunable.layout, kept, pruned), inputs)
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(computed(pruned, inputs), expected, rtol=0, atol=tolerance)
    tensor, dim = data.draw(st.sampled_from(sliced(prunable.layout, kept)))
    permute(pruned, prunable.layout, kept, tensor, dim)
    assert not torch.allclose(computed(pruned, inputs), expected, rtol=0, atol=tolerance), (tensor, dim)


def assert_whole(dense: ModelMixin, prunable: Prunable) -> None:
    """Ratio 1.0: the same configuration, every weight bit-equal."""
    config = prunable.space.configure(prunable.space.dense_values)
    same, error = surgery.slice_model(dense, config, prunable.layout, prunable.kept(random_scores(prunable), config), T)
    assert error == 0 and config == plain_config(dense.config)
    state = same.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())
