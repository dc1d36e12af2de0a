"""Sampling: per-image seeds, diffusers' own steps as the second implementation, and errors in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.schedulers import scheduling_ddpm

from tests.tiny import tiny_unet
from toolkit.core.errors import UsageError
from toolkit.core.noise import Places, generator, normal, sample_noise
from toolkit.diffusion.few_steps import path_scheduler
from toolkit.diffusion.sampling import SAMPLERS, build_scheduler, sample

SHAPE = (3, 8, 8)
SEEDS = [5, 1, 7, 2**40]
KNOWN_NOISE = [-1.9510072469711304, -0.7583803534507751]  # of seed 0 behind the first call


def predictor(**overrides):
    model = tiny_unet(**overrides)
    return lambda x, t, **conditioning: model(x, t, **conditioning).sample


def linear(x, t):
    return 0.3 * x + t[:, None, None, None] / 1000


@pytest.fixture(scope="module")
def predict():
    return predictor()


def test_noise_is_a_function_of_stream_seed_and_place_and_of_nothing_else():
    """Every server and every later version must draw these values."""
    places = [("sample", 0, 0), ("sample", 0, 1), ("sample", 1, 0), ("other", 0, 0), ("sample", 0, 0, 1)]
    drawn = {place: normal(place[0], *place[1:], shape=(2,)).tolist() for place in places}
    assert len({tuple(values) for values in drawn.values()}) == len(places)
    for seed in (0, 1):
        for step in (0, 1):
            assert np.array_equal(sample_noise([seed], step, (2,))[0], normal("sample", seed, step, shape=(2,)))
    assert sample_noise([0], 1, (2,))[0].tolist() == pytest.approx(KNOWN_NOISE)


def test_a_generator_moved_from_place_to_place_draws_what_a_new_one_draws():
    places = Places("sample")
    for place in ((3, 2), (3, 0, 5), (4, 2), (3, 2), (2**64 + 3, 7, 1, 4)):
        drawn = places.at(*place).integers(100, size=3).tolist()
        assert drawn == generator("sample", *place).integers(100, size=3).tolist()
        places.at(*place).integers(2)  # half a word is left over, which the next place must not see
    with pytest.raises(ValueError, match="at most three coordinates, found 4"):
        places.at(3, 0, 0, 0, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batch_size_and_order_do_not_change_an_image(sampler, predict):
    whole = sample(predict, DDPMScheduler(), SEEDS, SHAPE, 5, sampler)
    apart = torch.cat([sample(predict, DDPMScheduler(), [seed], SHAPE, 5, sampler) for seed in SEEDS])
    turned = sample(predict, DDPMScheduler(), SEEDS[::-1], SHAPE, 5, sampler).flip(0)
    torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-4)  # convolutions may sum in another order
    torch.testing.assert_close(whole, turned, rtol=1e-4, atol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_elementwise_denoiser_gives_bit_equal_images_at_any_batch_size(sampler):
    whole = sample(linear, DDPMScheduler(), SEEDS, SHAPE, 7, sampler)
    apart = torch.cat([sample(linear, DDPMScheduler(), [seed], SHAPE, 7, sampler) for seed in SEEDS])
    assert torch.equal(whole, apart)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_leaves_torchs_global_generator_alone(sampler):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sample(linear, DDPMScheduler(), SEEDS, SHAPE, 4, sampler)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("steps", "clip", "variance"), [(1, True, "fixed_small"), (7, False, "fixed_small_log"), (50, True, "fixed_large")]
)
def test_ddpm_is_diffusers_ddpm_with_our_noise(monkeypatch, steps, prediction, clip, variance):
    scheduler = DDPMScheduler(
        num_train_timesteps=100, prediction_type=prediction, clip_sample=clip, variance_type=variance
    )
    assert_equals_diffusers_ddpm(monkeypatch, linear, scheduler, steps)


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_ddpm_with_a_learned_variance_is_diffusers_ddpm(monkeypatch, variance):
    def two_headed(x, t):
        return torch.cat([linear(x, t), x.tanh().abs()], dim=1)

    assert_equals_diffusers_ddpm(
        monkeypatch, two_headed, DDPMScheduler(num_train_timesteps=100, variance_type=variance), 9
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddpm"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_learned_variance_of_any_number_of_channels_plays_no_part(sampler, channels):
    """DPM-Solver's class of diffusers takes the first three channels of a prediction whose variance is learned."""

    def two_headed(x, t):
        return torch.cat([linear(x, t), x.tanh().abs()], dim=1)

    learned, fixed = (DDPMScheduler(100, variance_type=variance) for variance in ("learned_range", "fixed_small"))
    found = sample(two_headed, learned, SEEDS, (channels, 8, 8), 5, sampler)
    assert torch.equal(found, sample(linear, fixed, SEEDS, (channels, 8, 8), 5, sampler))


def assert_equals_diffusers_ddpm(monkeypatch, predict, scheduler, steps):
    """Run DDPMScheduler's own step with randn_tensor replaced by our noise."""
    ours = sample(predict, scheduler, SEEDS, SHAPE, steps, "ddpm")
    numbers = iter(range(1, steps + 1))
    with monkeypatch.context() as patch:
        patch.setattr(
            scheduling_ddpm,
            "randn_tensor",
            lambda *args, **kwargs: torch.from_numpy(sample_noise(SEEDS, next(numbers), SHAPE)),
        )
        reference = DDPMScheduler.from_config(scheduler.config)
        reference.set_timesteps(steps)
        x = torch.from_numpy(sample_noise(SEEDS, 0, SHAPE))
        for t in reference.timesteps:
            x = reference.step(predict(x, t.expand(len(SEEDS))), int(t), x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_is_ddim_with_eta_one(clip):
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=clip)
    scheduler.set_timesteps(10)
    x = torch.from_numpy(sample_noise(SEEDS, 0, SHAPE))
    for number, t in enumerate(scheduler.timesteps, start=1):
        noise = torch.from_numpy(sample_noise(SEEDS, number, SHAPE))
        prediction = linear(x, t.expand(len(SEEDS)))
        x = scheduler.step(
            prediction, int(t), x, eta=1.0, use_clipped_model_output=True, variance_noise=noise
        ).prev_sample
    ours = sample(linear, DDPMScheduler(num_train_timesteps=100, clip_sample=clip), SEEDS, SHAPE, 10, "ddpm")
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_ddim_is_diffusers_pipeline(monkeypatch):
    model, scheduler = tiny_unet(), DDPMScheduler()
    pipeline = DDIMPipeline(model, DDIMScheduler.from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor",
        lambda *args, **kwargs: torch.from_numpy(sample_noise(SEEDS, 0, SHAPE)),
    )
    theirs = pipeline(batch_size=len(SEEDS), num_inference_steps=6, output_type="np").images
    ours = sample(lambda x, t: model(x, t).sample, scheduler, SEEDS, SHAPE, 6, "ddim")
    ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_dpm_solver_is_diffusers_scheduler():
    scheduler = DPMSolverMultistepScheduler(timestep_spacing="leading")  # DDPMScheduler's spacing
    scheduler.set_timesteps(8)
    x = torch.from_numpy(sample_noise(SEEDS, 0, SHAPE))
    for t in scheduler.timesteps:
        x = scheduler.step(linear(x, t.expand(len(SEEDS))), t, x).prev_sample
    ours = sample(linear, DDPMScheduler(), SEEDS, SHAPE, 8, "dpm-solver")
    torch.testing.assert_close(ours, x)


def test_conditioning_reaches_the_denoiser():
    labels = torch.tensor([0, 1, 2, 3])
    predict = predictor(num_class_embeds=4)
    conditioned = sample(predict, DDPMScheduler(), [0] * 4, SHAPE, 3, conditioning={"class_labels": labels})
    assert (conditioned[0] - conditioned[1]).abs().max() > 1e-3


def test_timesteps_are_batched_int64():
    seen = []

    def predict(x, t):
        seen.append(t)
        return x

    sample(predict, DDPMScheduler(), SEEDS, SHAPE, 4)
    assert [t.shape for t in seen] == [(4,)] * 4
    assert {t.dtype for t in seen} == {torch.int64}
    assert [int(t[0]) for t in seen] == [750, 500, 250, 0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_levels_given_by_position_or_left_at_their_default_are_kept(sampler):
    built = build_scheduler(DDPMScheduler(100, 0.001, 0.03), sampler, 10)
    assert built.config.num_train_timesteps == 100
    assert built.config.timestep_spacing == "leading"
    torch.testing.assert_close(built.alphas_cumprod, DDPMScheduler(100, 0.001, 0.03).alphas_cumprod)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler(), PNDMScheduler(), EulerDiscreteScheduler()])
def test_what_the_models_own_scheduler_does_not_clip_is_not_clipped(sampler, scheduler):
    assert not build_scheduler(scheduler, sampler, 10).config.clip_sample
    assert not path_scheduler(scheduler, 10).config.clip_sample
    assert path_scheduler(DDPMScheduler(), 10).config.clip_sample


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverSinglestepScheduler(),
        DEISMultistepScheduler(),
        DPMSolverMultistepScheduler(use_karras_sigmas=True),
        EulerDiscreteScheduler(use_karras_sigmas=True),
    ],
)
def test_how_the_models_own_scheduler_solves_is_not_taken_over_by_another_class(sampler, scheduler):
    if isinstance(scheduler, type(build_scheduler(DDPMScheduler(), sampler, 4))):
        pytest.skip("its own class, which takes over all")
    levels = {name: scheduler.config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    usual = "linspace" if sampler in ("dpm-solver", "unipc") else "leading"  # of a scheduler that has no spacing
    spacing = scheduler.config.get("timestep_spacing", usual)
    plain = DDPMScheduler(**levels, clip_sample=False, timestep_spacing=spacing)
    made = sample(linear, scheduler, SEEDS, SHAPE, 4, sampler)
    assert torch.equal(made, sample(linear, plain, SEEDS, SHAPE, 4, sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_noise_levels_that_another_class_does_not_know_are_taken_over(sampler, schedule, rescaled):
    kind = "v_prediction" if rescaled else "epsilon"
    own = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=rescaled, prediction_type=kind)
    for built in (build_scheduler(own, sampler, 10), path_scheduler(own, 10)):
        torch.testing.assert_close(built.alphas_cumprod, own.alphas_cumprod)


def test_a_sampler_that_does_not_know_the_noise_levels_says_so(monkeypatch):
    def refuse(self, steps):
        raise ValueError("no such levels")

    monkeypatch.setattr(DDIMScheduler, "set_timesteps", refuse)
    with pytest.raises(UsageError, match=r"ddim cannot sample[\s\S]*DDPMScheduler: no such levels"):
        build_scheduler(DDPMScheduler(), "ddim", 4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stochastic_solver_of_the_models_own_is_not_taken_over(sampler):
    own = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    first, again = (sample(linear, own, SEEDS, SHAPE, 5, sampler) for _ in range(2))
    assert torch.equal(first, again)


def test_unknown_sampler_names_the_known_ones():
    with pytest.raises(UsageError, match="Unknown sampler 'heun'") as error:
        sample(linear, DDPMScheduler(), SEEDS, SHAPE, 4, "heun")
    assert "ddim, ddpm, dpm-solver" in str(error.value)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_number_of_steps(steps):
    with pytest.raises(UsageError, match="1 to 1000"):
        sample(linear, DDPMScheduler(), SEEDS, SHAPE, steps)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"ddpm"}))  # which draws from a generator of the device
def test_the_loop_never_waits_for_the_device(sampler: str) -> None:
    """A tensor on the meta device has no values: whoever asks for one, as a synchronisation does, fails."""
    scheduler = DDPMScheduler(num_train_timesteps=100)

    def predict(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert timestep.shape == (2,) and timestep.device.type == "meta"
        return torch.empty_like(x)

    assert sample(predict, scheduler, [0, 1], (3, 4, 4), 5, sampler, device="meta").shape == (2, 3, 4, 4)
