"""Guidance leads away from the null condition, and at 1 it is not there."""

from __future__ import annotations

import torch

from tests.tiny import tiny_conditional_unet
from toolkit.core.noise import normal
from toolkit.diffusion.guidance import guided


class Counting:
    """A denoiser that notes the batches it is called with."""

    def __init__(self) -> None:
        self.model, self.batches = tiny_conditional_unet(), []

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(sample))
        with torch.no_grad():
            return self.model(sample, timestep, **conditioning).sample


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(normal("guidance", seed, shape=shape))


def test_it_is_the_formula_in_one_call_of_twice_the_batch() -> None:
    predict, sample, t = Counting(), draw(0, 3, 4, 8, 8), torch.tensor([1, 50, 900])
    context, null = draw(1, 3, 5, 12), draw(2, 1, 5, 12)
    found = guided(predict, {"encoder_hidden_states": null}, 2.5)(sample, t, encoder_hidden_states=context)
    towards = predict(sample, t, encoder_hidden_states=context)
    away = predict(sample, t, encoder_hidden_states=null.expand(3, -1, -1))
    torch.testing.assert_close(found, away + 2.5 * (towards - away), rtol=1e-4, atol=1e-4)
    assert predict.batches == [6, 3, 3]


def test_guidance_of_one_is_no_guidance() -> None:
    predict = Counting()
    assert guided(predict, {}, 1.0) is predict


def test_a_learned_variance_is_the_conditional_one() -> None:
    def predict(sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        return class_labels.float().view(-1, 1, 1, 1).expand(-1, 4, 1, 1)

    null = {"class_labels": torch.tensor([10])}
    found = guided(predict, null, 3.0)(torch.zeros(2, 2, 1, 1), torch.zeros(2), class_labels=torch.tensor([1, 2]))
    assert found[:, :, 0, 0].tolist() == [[-17, -17, 1, 1], [-14, -14, 2, 2]]
