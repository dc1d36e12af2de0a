"""Surgery is a function-preserving act."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.pruning.cases import CASES, dense_model, inputs_of, prunable_of, random_scores
from tests.pruning.reference import permute, silenced, sliced
from toolkit.core.errors import DtkError
from toolkit.models.build import plain_config
from toolkit.pruning import surgery
from toolkit.pruning.prunable import Prunable

T = 100


def run(model, inputs):
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def first_time_layer(model):
    """What the first layer of the time embedding makes of every timestep."""
    with torch.no_grad():
        return model.time_embedding.linear_1(model.time_proj(torch.arange(T)))


def smaller(prunable: Prunable) -> dict:
    """The configuration that cuts every variable as far as it goes."""
    values = min(prunable.space)
    return prunable.space.configure(values)


@pytest.mark.parametrize("policy", ["within", "whole"])
@pytest.mark.parametrize("name", CASES)
def test_sliced_model_equals_dense_on_the_kept_channels(name: str, policy: str) -> None:
    dense = dense_model(name)
    prunable = prunable_of(dense, policy)
    config = smaller(prunable)
    kept = prunable.kept(random_scores(prunable), config)
    pruned, error = surgery.slice_model(dense, config, prunable.layout, kept, T)
    assert pruned.num_parameters() < 0.7 * dense.num_parameters()
    if prunable.adapter.timed:
        before, after = (first_time_layer(model) for model in (dense, pruned))
        assert (after - before).abs().max() <= (error + 1e-5) * before.abs().max()
    inputs = inputs_of(dense)
    expected = run(silenced(dense, prunable.layout, kept, pruned), inputs)
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(run(pruned, inputs), expected, rtol=0, atol=tolerance)
    for tensor, dim in sliced(prunable.layout, kept)[::17]:
        whole = pruned.get_parameter(tensor).clone()
        permute(pruned, prunable.layout, kept, tensor, dim)
        assert not torch.allclose(run(pruned, inputs), expected, rtol=0, atol=tolerance), (tensor, dim)
        pruned.get_parameter(tensor).data.copy_(whole)


@pytest.mark.parametrize("name", CASES)
def test_another_choice_in_any_group_shows(name: str) -> None:
    """Swap one kept channel of a group for a dropped one: the reference of the first choice must tell."""
    dense = dense_model(name)
    prunable = prunable_of(dense)
    config = smaller(prunable)
    kept = prunable.kept(random_scores(prunable), config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, T)
    inputs = inputs_of(dense)
    expected = run(silenced(dense, prunable.layout, kept, pruned), inputs)
    tolerance = 1e-5 * float(expected.abs().max())
    narrowed = [group for group, indices in kept.items() if len(indices) < prunable.layout.groups[group].size]
    for group in narrowed[::4]:
        dropped = np.setdiff1d(np.arange(prunable.layout.groups[group].size), kept[group])
        swapped = {**kept, group: np.sort(np.append(kept[group][1:], dropped[0]))}
        wrong = run(surgery.slice_model(dense, config, prunable.layout, swapped, T)[0], inputs)
        assert not torch.allclose(wrong, expected, rtol=0, atol=tolerance), group


@pytest.mark.parametrize("policy", ["within", "whole"])
@pytest.mark.parametrize("name", CASES)
def test_ratio_one_is_bit_equal(name: str, policy: str) -> None:
    dense = dense_model(name)
    prunable = prunable_of(dense, policy)
    config = prunable.space.configure(prunable.space.dense_values)
    pruned, error = surgery.slice_model(
        dense, config, prunable.layout, prunable.kept(random_scores(prunable), config), T
    )
    assert error == 0
    assert config == plain_config(dense.config)
    state = pruned.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())


def test_tied_parameters_are_refused() -> None:
    dense = dense_model("heads")
    surgery.refuse_tied(dense)
    dense.up_blocks[1].resnets[1].conv2.weight = dense.up_blocks[1].resnets[0].conv2.weight
    with pytest.raises(DtkError, match=r"share their memory[\s\S]*resnets\.0\.conv2\.weight and .*resnets\.1\.conv2"):
        surgery.refuse_tied(dense)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_lies_in_the_layout(name: str) -> None:
    dense = dense_model(name)
    prunable = prunable_of(dense)
    missing = {n for n, _ in dense.named_parameters()} - set(prunable.layout.tensors)
    assert missing <= {"class_embedding.weight"}
