"""Summed gradients are the formula's, whatever they cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler

from tests.pruning.naive import summed_gradients
from tests.tiny import tiny_unet
from toolkit.noise import normal
from toolkit.pruning.gradients import Effort, accumulate
from toolkit.pruning.scoring import Calibration

T, IMAGES = 12, 4


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_unet()


def calibration(draws: int = 1, images: int = IMAGES) -> Calibration:
    shape = (images, 3, 8, 8)
    noise, *more = (torch.from_numpy(normal("test noise", 0, n, shape=shape)) for n in range(draws))
    pixels = torch.from_numpy(normal("test images", 0, shape=shape)).tanh()
    return Calibration(pixels, noise, DDPMScheduler(num_train_timesteps=T, beta_end=0.2), more_noise=tuple(more))


def collect(model: torch.nn.Module, of: Calibration, effort: Effort, threshold: float = 0.0) -> tuple[dict, list[dict]]:
    names = [name for name, _ in model.named_parameters()]

    def every(gradient: Callable[[str], torch.Tensor]) -> dict:
        return {name: gradient(name).clone() for name in names}

    (found,) = [
        (every(reached.gradients.total), [every(part) for part in reached.gradients.parts()])
        for reached in accumulate(model, of, [threshold], effort)
    ]
    assert all(parameter.grad is None for parameter in model.parameters()), "no gradient is left behind"
    return found


def assert_equal(one: dict, other: dict, relative: float) -> None:
    size = max(float(tensor.abs().max()) for tensor in other.values())
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=relative * size, msg=name)


@pytest.fixture(scope="module")
def expected(model: torch.nn.Module) -> list[dict]:
    """The naive sums of all images, of the first half and of the second."""
    of = calibration()
    rows = (slice(None), slice(0, IMAGES // 2), slice(IMAGES // 2, None))
    alphas = of.scheduler.alphas_cumprod
    return [summed_gradients(model, of.images[part], of.noise[part], alphas, 0.0)[0] for part in rows]


@pytest.mark.parametrize(
    "effort",
    [Effort(), Effort(batch_size=1), Effort(batch_size=3), Effort(timesteps=T), Effort(checkpointing=True)],
    ids=str,
)
def test_what_saves_memory_does_not_change_the_sum(
    model: torch.nn.Module, expected: list[dict], effort: Effort
) -> None:
    total, halves = collect(model, calibration(), effort)
    for found, wanted in zip([total, *halves], expected, strict=True):
        assert_equal(found, wanted, 1e-5)


def test_checkpointing_recomputes_and_is_turned_off_again(model: torch.nn.Module) -> None:
    calls = []
    hook = model.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    collect(model, calibration(images=1), Effort())
    plain = len(calls)
    collect(model, calibration(images=1), Effort(checkpointing=True))
    hook.remove()
    assert len(calls) - plain == 2 * plain
    assert not model.is_gradient_checkpointing


def test_one_image_has_no_halves(model: torch.nn.Module) -> None:
    assert collect(model, calibration(images=1), Effort())[1] == []


def test_autocast_is_close_and_not_the_same(model: torch.nn.Module, expected: list[dict]) -> None:
    half, _ = collect(model, calibration(), Effort(bf16=True))
    one, other = (torch.cat([tensor.flatten() for tensor in found.values()]) for found in (expected[0], half))
    error = float((one - other).norm() / one.norm())
    assert 1e-5 < error < 0.1
    assert all(tensor.dtype == torch.float32 for tensor in half.values())


def test_few_timesteps_stand_for_their_neighbours(model: torch.nn.Module) -> None:
    """Six of twelve: the sum of those six, each counted twice."""
    of = calibration()
    few, _ = collect(model, of, Effort(timesteps=6))
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for t in range(0, T, 2):
        for name, gradient in gradient_at(model, of, t, of.noise).items():
            expected[name] += 2 * gradient
    assert_equal(few, expected, 1e-5)


def test_noise_draws_take_turns(model: torch.nn.Module) -> None:
    of = calibration(draws=3)
    total, _ = collect(model, of, Effort())
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
