"""The training target of every prediction type is what the scheduler's own step undoes the noise with."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from tests.tiny import tiny_unet
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.diffusion.objective import noisy, predicted, target

KINDS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_predicts_the_target_finds_the_image(kind: str) -> None:
    scheduler = DDIMScheduler(num_train_timesteps=100, prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(100)
    images, noise = (torch.from_numpy(normal("objective", n, shape=(3, 2, 4, 4))) for n in range(2))
    for t in (0, 40, 99):
        timesteps = torch.full((3,), t)
        wanted = target(scheduler, images, noise, timesteps)
        step = scheduler.step(wanted, t, noisy(scheduler, images, noise, timesteps))
        torch.testing.assert_close(step.pred_original_sample, images, rtol=1e-3, atol=1e-3)


def test_other_kinds_are_refused() -> None:
    scheduler = DDIMScheduler(prediction_type="flow")
    with pytest.raises(DtkError, match=r"prediction type[\s\S]*flow[\s\S]*epsilon, sample or v_prediction"):
        target(scheduler, *torch.zeros(2, 1, 1, 2, 2), torch.zeros(1, dtype=torch.long))


def test_a_learned_variance_is_not_trained() -> None:
    model, x = tiny_unet(out_channels=6), torch.from_numpy(normal("objective", 0, shape=(2, 3, 8, 8)))
    predicted(model(x, torch.tensor([0, 999])).sample, 3).square().mean().backward()
    gradient = model.conv_out.weight.grad
    assert gradient[:3].abs().max() > 0 and gradient[3:].abs().max() == 0
