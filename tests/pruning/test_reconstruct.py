"""Reconstruction says again, with the inputs that stay, what the dropped ones said."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from tests.pruning.cases import dense_model, prunable_of, random_scores
from toolkit.core.noise import normal
from toolkit.core.progress import silent
from toolkit.pruning import prune, surgery
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.choice import Choice
from toolkit.pruning.criteria.base import criterion_called
from toolkit.pruning.reconstruct import NormalEquations, reconstruct
from toolkit.pruning.scoring import Scored
from toolkit.pruning.settings import PruneSettings

LAYERS = {
    "conv": (lambda width: nn.Conv2d(width, 5, 3, padding=1), (6, 8, 8)),
    "strided conv without bias": (lambda width: nn.Conv2d(width, 5, 3, stride=2, padding=1, bias=False), (6, 8, 8)),
    "linear": (lambda width: nn.Linear(width, 5), (40, 6)),
    "linear without bias": (lambda width: nn.Linear(width, 5, bias=False), (40, 6)),
}


def data(*shape: int, place: int = 0) -> torch.Tensor:
    return torch.from_numpy(normal("reconstruct", 0, place, shape=shape))


def filled(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(data(*parameter.shape, place=10 + number))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_dropped_inputs_that_are_combinations_of_kept_ones_cost_nothing(name: str) -> None:
    make, shape = LAYERS[name]
    dense, sliced = filled(make(6)), make(4)
    channels = 0 if len(shape) == 3 else 1
    x = data(16, *shape).double().float()
    mix = data(2, 4, place=1)
    free = x.narrow(channels + 1, 0, 4)
    x = torch.cat(
        [free, torch.einsum("oc,...c->...o", mix, free.movedim(channels + 1, -1)).movedim(-1, channels + 1)],
        channels + 1,
    )
    with torch.no_grad():
        sliced.weight.copy_(dense.weight[:, :4])
        if dense.bias is not None:
            sliced.bias.copy_(dense.bias)
        wanted = dense(x)
        before = (sliced(free) - wanted).square().mean()
        equations = NormalEquations(sliced)
        for rows in (slice(0, 5), slice(5, 16)):  # streamed
            equations.add(free[rows], wanted[rows])
        equations.solve(1e-9)
        after = (sliced(free) - wanted).square().mean()
    assert after < 1e-8 * before


def test_where_the_data_say_nothing_nothing_changes() -> None:
    layer = filled(nn.Linear(4, 3, bias=False))
    weight = layer.weight.detach().clone()
    equations = NormalEquations(layer)
    x = data(20, 4)
    x[:, 2:] = 0
    with torch.no_grad():
        equations.add(x, layer(x) + x[:, :1])
        equations.solve(1e-6)
    assert not torch.allclose(layer.weight[:, :2], weight[:, :2], atol=1e-2)
    torch.testing.assert_close(layer.weight[:, 2:], weight[:, 2:])


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["dense", "sliced"])
def test_a_pruned_model_comes_nearer_to_the_dense_one(inputs: str) -> None:
    dense = dense_model("heads")
    prunable = prunable_of(dense)
    config = prunable.space.configure(min(prunable.space))
    kept = prunable.kept(random_scores(prunable), config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, 100)
    images, noise = data(8, 3, 8, 8).tanh(), data(8, 3, 8, 8, place=1)
    of = Calibration(images, noise, DDPMScheduler(num_train_timesteps=100))

    def error() -> float:
        with torch.no_grad():
            return float(
                sum((of.prediction_at(pruned, t) - of.prediction_at(dense, t)).square().mean() for t in (20, 60))
            )

    before, embedding = error(), pruned.time_embedding.linear_1.weight.detach().clone()
    reconstruct(dense, pruned, prunable.layout, kept, of, (20, 60), inputs=inputs)
    assert error() < before
    assert torch.equal(pruned.time_embedding.linear_1.weight, embedding)


@pytest.mark.slow
def test_a_model_that_lost_nothing_stays_as_it_is() -> None:
    dense = dense_model("heads")
    prunable = prunable_of(dense)
    config = prunable.space.configure(prunable.space.dense_values)
    kept = prunable.kept(random_scores(prunable), config)
    pruned, _ = surgery.slice_model(dense, config, prunable.layout, kept, 100)
    of = Calibration(data(2, 3, 8, 8), data(2, 3, 8, 8, place=1), DDPMScheduler(num_train_timesteps=100))
    reconstruct(dense, pruned, prunable.layout, kept, of, (50,))
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(pruned.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loss", "taken"), [(0.5, True), (1.0, False), (2.0, False)])
def test_it_is_taken_only_if_held_out_images_gain(loss: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "reconstruct", lambda *given, **options: None)
    dense = dense_model("heads")
    prunable = prunable_of(dense)
    settings = PruneSettings(reconstruct=True)
    slicer = prune.Slicer(prunable, dense, settings, criterion_called("magnitude"), 100)
    choice = Choice(min(prunable.space), True, Scored({}, {}), {}, nn.Linear(1, 1), 0.0, 1.0, one_shot_loss=1.0)
    nothing = torch.zeros(1, 3, 8, 8)
    fitted_on = Calibration(nothing, nothing, DDPMScheduler(num_train_timesteps=100))
    found, record = slicer.reconstructed(choice, fitted_on, lambda model: loss, silent)
    assert record is not None and record["taken"] == taken == (found.model is not choice.model)
