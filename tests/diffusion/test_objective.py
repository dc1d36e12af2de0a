"""The training target of every prediction type is what the scheduler's own step undoes the noise with."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from tests.tiny import tiny_unet
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.diffusion.objective import noisy, predicted, target, timesteps_and_kind

KINDS = ("epsilon", "v_prediction", "sample")
FOR_SAMPLING = [
    *("DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "TCDScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "SASolverScheduler"),
]


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FOR_SAMPLING)
def test_a_model_was_trained_as_ddpm_trains_whatever_scheduler_samples_it(name: str, kind: str) -> None:
    trained = DDPMScheduler(1000, 0.0001, 0.03, "linear", prediction_type=kind)
    config = {name: value for name, value in trained.config.items() if name != "_use_default_values"}
    scheduler = getattr(diffusers, name).from_config(config)
    images, noise = (torch.from_numpy(normal("objective", n, shape=(4, 2, 4, 4))) for n in range(2))
    t = torch.tensor([0, 10, 900, 999])
    wanted = {"epsilon": noise, "sample": images, "v_prediction": trained.get_velocity(images, noise, t)}[kind]
    assert torch.equal(noisy(scheduler, images, noise, t), trained.add_noise(images, noise, t))
    assert torch.equal(target(scheduler, images, noise, t), wanted)


@pytest.mark.parametrize(
    ("scheduler", "found"),
    [
        (DDIMScheduler(prediction_type="flow"), "prediction type flow, noise levels"),
        (EDMEulerScheduler(), "prediction type epsilon, no noise levels"),
        (FlowMatchEulerDiscreteScheduler(), "prediction type None, no noise levels"),
    ],
)
def test_other_trainings_are_refused(scheduler: diffusers.SchedulerMixin, found: str) -> None:
    with pytest.raises(DtkError, match=rf"{type(scheduler).__name__}[\s\S]*{found}[\s\S]*epsilon, sample or v_pred"):
        timesteps_and_kind(scheduler)


def test_a_learned_variance_is_not_trained() -> None:
    model, x = tiny_unet(out_channels=6), torch.from_numpy(normal("objective", 0, shape=(2, 3, 8, 8)))
    predicted(model(x, torch.tensor([0, 999])).sample, 3).square().mean().backward()
    gradient = model.conv_out.weight.grad
    assert gradient[:3].abs().max() > 0 and gradient[3:].abs().max() == 0
