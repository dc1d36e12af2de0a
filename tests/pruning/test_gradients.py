"""Summed gradients are the formula's, whatever they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from tests.pruning.naive import summed_gradients
from tests.tiny import tiny_unet
from toolkit.core.noise import generator, normal
from toolkit.data.images import Images
from toolkit.models.conditioners import Unconditional
from toolkit.models.conditioning import Conditioning
from toolkit.pruning.calibration import Calibration, draw, held_out_loss
from toolkit.pruning.gradients import Effort, accumulate, accumulate_to
from toolkit.pruning.settings import PruneSettings

T, IMAGES = 12, 4


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_unet()


def calibration(draws: int = 1, images: int = IMAGES) -> Calibration:
    shape = (images, 3, 8, 8)
    noise, *more = (torch.from_numpy(normal("test noise", 0, n, shape=shape)) for n in range(draws))
    pixels = torch.from_numpy(normal("test images", 0, shape=shape)).tanh()
    return Calibration(pixels, noise, DDPMScheduler(num_train_timesteps=T, beta_end=0.2), more_noise=tuple(more))


def collect(model: torch.nn.Module, of: Calibration, effort: Effort, threshold: float = 0.0) -> dict:
    names = [name for name, _ in model.named_parameters()]
    (found,) = [
        {name: reached.gradient(name).clone() for name in names}
        for reached in accumulate(model, of, [threshold], effort)
    ]
    assert all(parameter.grad is None for parameter in model.parameters()), "no gradient is left behind"
    return found


def assert_equal(one: dict, other: dict, relative: float) -> None:
    size = max(float(tensor.abs().max()) for tensor in other.values())
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=relative * size, msg=name)


@pytest.fixture(scope="module")
def expected(model: torch.nn.Module) -> dict:
    """The naive sums."""
    of = calibration()
    return summed_gradients(model, of.images, of.noise, of.scheduler.alphas_cumprod, 0.0)[0]


@pytest.mark.parametrize(
    "effort",
    [Effort(), Effort(batch_size=1), Effort(batch_size=3), Effort(timesteps=T), Effort(checkpointing=True)],
    ids=str,
)
def test_what_saves_memory_does_not_change_the_sum(model: torch.nn.Module, expected: dict, effort: Effort) -> None:
    assert_equal(collect(model, calibration(), effort), expected, 1e-5)


@pytest.mark.parametrize("effort", [Effort(), Effort(batch_size=1), Effort(timesteps=4)], ids=str)
def test_gradients_are_kept_once(model: torch.nn.Module, effort: Effort) -> None:
    """What is scored is what the backward pass added to: no sum stands next to it."""
    for reached in accumulate(model, calibration(), [0.5, 0.0], effort):
        assert all(reached.gradient(name) is parameter.grad for name, parameter in model.named_parameters())


@pytest.mark.parametrize("draws", [1, 3])
def test_halves_hold_every_image_once(draws: int) -> None:
    of = calibration(draws, images=5)
    halves = of.halves()
    assert [len(half.images) for half in halves] == [2, 3]
    for name in ("images", "noise", *("more_noise",) * (draws > 1)):
        whole, parts = getattr(of, name), [getattr(half, name) for half in halves]
        for one, *others in zip(whole, *parts, strict=True) if name == "more_noise" else [(whole, *parts)]:
            assert torch.equal(torch.cat(others), one)
    assert calibration(images=1).halves() == []


def test_what_is_held_out_is_not_scored_on() -> None:
    pixels = generator("test images", 0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    images = Images("test", (3, 8, 8), "0" * 64, tuple(range(12)), lambda number: pixels[number])
    conditioner = Unconditional(Conditioning("none", 0, False, None))
    settings = PruneSettings(calibration_images=5, noise_draws=2)
    drawn = draw(images, settings, DDPMScheduler(), conditioner, "cpu")
    scored, held_out = ({image.numpy().tobytes() for image in of.images} for of in (drawn.scored, drawn.held_out))
    assert len(scored) == len(held_out) == 5 and not scored & held_out
    assert scored | held_out < {image.tobytes() for image in images.read(range(12))}
    noise = [image.numpy().tobytes() for of in (drawn.scored, drawn.held_out) for image in of.noise]
    assert len(set(noise)) == 10 and drawn.scored.draws == 2


def test_the_held_out_loss_is_the_mean_squared_error_of_an_element() -> None:
    """Of a network that predicts nothing: the mean square of the noise, however many images at once."""
    of = calibration()
    nothing: Any = lambda x, t, return_dict: (torch.zeros_like(x),)  # noqa: E731
    for batch_size in (None, 3):
        found = held_out_loss(nothing, of, points=5, batch_size=batch_size)
        assert found == pytest.approx(float(of.noise.square().mean()), rel=1e-5)


def test_stops_that_are_known_are_not_looked_for(model: torch.nn.Module) -> None:
    of = calibration()
    found = {
        reached.threshold: {name: reached.gradient(name).clone() for name, _ in model.named_parameters()}
        for reached in accumulate_to(model, of, {0.5: 5, 0.0: T}, Effort(timesteps=T))
    }
    for threshold, end in ((0.5, 5), (0.0, T)):
        expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        for t in range(end):
            for name, gradient in gradient_at(model, of, t, of.noise).items():
                expected[name] += gradient
        assert_equal(found[threshold], expected, 1e-5)


def test_checkpointing_recomputes_and_is_turned_off_again(model: torch.nn.Module) -> None:
    calls = []
    hook = model.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    collect(model, calibration(images=1), Effort())
    plain = len(calls)
    collect(model, calibration(images=1), Effort(checkpointing=True))
    hook.remove()
    assert len(calls) - plain == 2 * plain
    assert not model.is_gradient_checkpointing


def test_autocast_is_close_and_not_the_same(model: torch.nn.Module, expected: dict) -> None:
    half = collect(model, calibration(), Effort(bf16=True))
    one, other = (torch.cat([tensor.flatten() for tensor in found.values()]) for found in (expected, half))
    error = float((one - other).norm() / one.norm())
    assert 1e-5 < error < 0.1
    assert all(tensor.dtype == torch.float32 for tensor in half.values())


def test_few_timesteps_stand_for_their_neighbours(model: torch.nn.Module) -> None:
    """Six of twelve: the sum of those six, each counted twice."""
    of = calibration()
    few = collect(model, of, Effort(timesteps=6))
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for t in range(0, T, 2):
        for name, gradient in gradient_at(model, of, t, of.noise).items():
            expected[name] += 2 * gradient
    assert_equal(few, expected, 1e-5)


def test_noise_draws_take_turns(model: torch.nn.Module) -> None:
    of = calibration(draws=3)
    total = collect(model, of, Effort())
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for t in range(T):
        for name, gradient in gradient_at(model, of, t, (of.noise, *of.more_noise)[t % 3]).items():
            expected[name] += gradient
    assert_equal(total, expected, 1e-5)


def gradient_at(model: torch.nn.Module, of: Calibration, t: int, noise: torch.Tensor) -> dict:
    a = of.scheduler.alphas_cumprod[t]
    prediction = model(a.sqrt() * of.images + (1 - a).sqrt() * noise, torch.full((len(noise),), t)).sample
    loss = (noise - prediction).square().sum() / len(noise)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
