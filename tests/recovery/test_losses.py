"""Every loss: nothing where student and teacher agree, gradients for the student alone, and the formula it states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from tests.pruning.cases import DENOISERS, dense_model, inputs_of, prunable_of, random_scores
from tests.pruning.reference import silenced
from tests.tiny import tiny_unet
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.diffusion.objective import min_snr_weights
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pruning import surgery
from toolkit.pruning.layout import Layout
from toolkit.pruning.plan import Plan, read_plan
from toolkit.recovery import passes
from toolkit.recovery.losses.base import TrainingStep, known_losses, loss_called
from toolkit.recovery.mix import kept_features

SHAPE = (3, 8, 8)
BATCH = 4


def unit_vectors(seed: int) -> torch.Tensor:
    drawn = np.stack([normal("direction", seed, n, shape=SHAPE) for n in range(BATCH)])
    return torch.from_numpy(drawn / np.sqrt(np.square(drawn).sum((1, 2, 3), keepdims=True)))


def every_channel(net: nn.Module) -> dict[str, torch.Tensor]:
    """All channels of the residual blocks, as if nothing had been pruned."""
    blocks = {name: block for name, block in net.named_modules() if hasattr(block, "conv2")}
    return {name: torch.arange(block.conv2.out_channels) for name, block in blocks.items()}


def make_step(student: nn.Module, teacher: nn.Module, kept: Mapping[str, torch.Tensor] | None = None) -> TrainingStep:
    x, target = (torch.from_numpy(normal("loss", i, shape=(BATCH, *SHAPE))) for i in range(2))
    t = torch.tensor([0, 10, 50, 99])
    return TrainingStep(student, student, teacher, x, t, target, unit_vectors(0), kept or every_channel(student))


@pytest.mark.parametrize("name", known_losses())
def test_every_loss_teaches_the_student_alone_image_by_image(name: str) -> None:
    student, teacher = tiny_unet(1), tiny_unet(2)
    loss = loss_called(name)(make_step(student, teacher))
    assert loss.shape == (BATCH,) and (loss > 0).all()
    part = make_step(student, teacher)
    part.x_t, part.t, part.target, part.direction = part.x_t[1:3], part.t[1:3], part.target[1:3], part.direction[1:3]
    torch.testing.assert_close(loss_called(name)(part), loss[1:3], rtol=1e-4, atol=0)
    loss.mean().backward()
    moved = [key for key, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) > 0.9 * len(list(student.parameters()))
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", [name for name, loss in known_losses().items() if loss.needs_teacher])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name: str) -> None:
    loss = loss_called(name)(make_step(tiny_unet(1), tiny_unet(1)))
    assert float(loss.detach().max()) < 1e-9


@pytest.mark.parametrize("name", ["noise", "distillation"])
def test_losses_of_the_output_are_mean_squared_errors(name: str) -> None:
    student, teacher = tiny_unet(1), tiny_unet(2)
    step = make_step(student, teacher)
    with torch.no_grad():
        wanted = {"noise": step.target, "distillation": teacher(step.x_t, step.t).sample}[name]
        expected = ((student(step.x_t, step.t).sample - wanted) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(loss_called(name)(step).detach(), expected, rtol=1e-4, atol=0)


def test_derivatives_are_those_of_finite_differences() -> None:
    """In float64, against central differences; and their gradients against the same of a perturbed parameter."""
    net = tiny_unet(3).double()
    step = make_step(net, net)
    x, v = step.x_t.double(), step.direction.double()

    def derivative() -> torch.Tensor:
        found = passes.run(net, net, x, step.t, {}, direction=v).derivative
        assert found is not None
        return found

    def difference(width: float = 1e-5) -> torch.Tensor:
        with torch.no_grad():
            ends = [net(x + sign * width * v, step.t).sample for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * width)

    got = derivative()
    torch.testing.assert_close(got.detach(), difference(), rtol=1e-5, atol=1e-7)
    weight = net.get_parameter("mid_block.attentions.0.to_q.weight")
    (slope,) = torch.autograd.grad(got.square().sum(), weight)
    values = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            weight[0, 0] += shift
            values.append(float(derivative().square().sum()))
            weight[0, 0] -= shift
    assert float(slope[0, 0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_jacobian_loss_is_its_formula() -> None:
    """Against torch.func's reverse-mode Jacobian of one image."""
    student, teacher = tiny_unet(1), tiny_unet(2)
    step = make_step(student, teacher)

    def expansion(net: nn.Module) -> float:
        jacobian = torch.func.jacrev(lambda x: net(x[None], step.t[2:3]).sample[0].flatten())(step.x_t[2])
        return float((jacobian.detach().reshape(192, 192) @ step.direction[2].flatten()).square().sum())

    expected = (expansion(student) / expansion(teacher) - 1) ** 2
    assert float(loss_called("jacobian")(step)[2].detach()) == pytest.approx(expected, rel=1e-3)


def test_no_timestep_drowns_the_others_in_the_jacobian_loss() -> None:
    """A predicted noise changes with x_t as 1/sigma_t: to the fourth power that is 10^8 from last to first."""
    folder = find_model(None)
    teacher, student = (load_denoiser(folder) for _ in range(2))
    alphas = load_scheduler(folder).alphas_cumprod
    with torch.no_grad():
        for number, weight in enumerate(student.parameters()):
            weight *= 1 + 0.05 * torch.from_numpy(normal("perturbed", number, shape=tuple(weight.shape)))
    t = torch.tensor([0, 10, 100, 999])
    noise, v = (torch.from_numpy(normal("loss", n, shape=(4, 1, 16, 16))) for n in range(2))
    black, share = -torch.ones_like(noise), alphas[t][:, None, None, None]
    x_t = share.sqrt() * black + (1 - share).sqrt() * noise
    step = TrainingStep(student, student, teacher, x_t, t, noise, v / v.flatten(1).norm(dim=1)[:, None, None, None])
    with torch.no_grad():
        loss = loss_called("jacobian")(step)
    assert loss.min() > 0 and loss.max() < 100 * loss.min(), loss.tolist()


def test_the_pass_with_a_derivative_predicts_the_same() -> None:
    net = tiny_unet(1)
    step = make_step(net, net)
    plain = passes.run(net, net, step.x_t, step.t, {})
    both = passes.run(net, net, step.x_t, step.t, {}, direction=step.direction, features=list(step.kept))
    torch.testing.assert_close(both.prediction, plain.prediction, rtol=1e-5, atol=1e-5)
    assert plain.derivative is None and both.features.keys() == step.kept.keys()
    hooks = [module for module in net.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks, "a pass leaves hooks behind"


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_from_its_parts_is_torchs(mask: str | None) -> None:
    query, key, value = (torch.from_numpy(normal("qkv", i, shape=(2, 3, 5, 4))) for i in range(3))
    floats = torch.from_numpy(normal("mask", 0, shape=(5, 5)))
    given = {None: None, "bool": floats > -1, "float": floats}[mask]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given)
    with passes.WrittenOutAttention():
        got = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given)
    torch.testing.assert_close(got, expected)


def test_both_networks_run_once_a_batch_whatever_the_mix() -> None:
    student, teacher = tiny_unet(1), tiny_unet(2)
    calls: list[str] = []
    for name, net in (("student", student), ("teacher", teacher)):
        net.conv_out.register_forward_hook(lambda *_, name=name: calls.append(name))
    step = make_step(student, teacher)
    for loss in known_losses().values():
        loss(step)
    assert sorted(calls) == ["student", "teacher"]


@pytest.mark.parametrize("name", DENOISERS)
def test_features_are_compared_on_the_channels_that_were_kept(name: str, tmp_path: Path) -> None:
    """Against a teacher whose lost channels are silenced nothing is left to learn; with any other indices much is."""
    dense = dense_model(name)
    prunable = prunable_of(dense)
    config = prunable.space.configure(min(prunable.space))
    chosen = prunable.kept(random_scores(prunable), config)
    student, _ = surgery.slice_model(dense, config, prunable.layout, chosen, 100)
    Plan({}, type(dense).__name__, config, prunable.layout, chosen).write(tmp_path / "plan.json")
    kept = kept_features(read_plan(tmp_path / "plan.json"), student, torch.device("cpu"))
    assert kept.keys() == every_channel(dense).keys()
    inputs = inputs_of(dense)
    x, t = inputs.pop("sample"), inputs.pop("timestep")
    teacher = silenced(dense, prunable.layout, chosen, student)

    step, permuted = (
        TrainingStep(student, student, teacher, x, t, x, kept=indices, conditioning=inputs)
        for indices in (kept, {block: torch.roll(indices, 1) for block, indices in kept.items()})
    )
    assert float(loss_called("features")(step).detach().max()) < 1e-8
    right, wrong = dict(step.of_teacher.features), permuted.of_teacher.features
    for block in kept:
        step.of_teacher.features.update(right | {block: wrong[block]})
        assert float(loss_called("features")(step).detach().min()) > 1e-3, block


def test_features_of_any_size_count_alike() -> None:
    """A block of features a thousand times as large, in both networks, weighs as much as before."""
    step = make_step(tiny_unet(1), tiny_unet(2))
    plain = loss_called("features")(step).detach()
    block = next(iter(step.kept))
    for passed in (step.of_student, step.of_teacher):
        passed.features[block] = passed.features[block] * 1000
    torch.testing.assert_close(loss_called("features")(step).detach(), plain)


def test_a_model_without_residual_blocks_has_no_features_to_compare() -> None:
    with pytest.raises(DtkError, match=r"'features' has nothing to compare[\s\S]*recover.losses"):
        kept_features(Plan({}, "UNet2DModel", {}, Layout({}, {}), {}), nn.Linear(1, 1), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weighs_every_prediction_as_if_it_were_of_the_image(kind: str) -> None:
    """A prediction off by d in units of the image costs min(SNR, gamma) d^2, whatever it is that was predicted."""
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type=kind)
    t = torch.arange(100)
    alpha, sigma = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
    snr = (alpha / sigma) ** 2
    # x_t = alpha x + sigma e, v = alpha e - sigma x: an error d of x is one of alpha/sigma d in e, of d/sigma in v
    squared = {"epsilon": snr, "sample": torch.ones(100), "v_prediction": 1 / sigma**2}[kind]
    weights = min_snr_weights(scheduler, t, gamma=5.0)
    torch.testing.assert_close(weights * squared, snr.clamp(max=5.0), rtol=1e-4, atol=1e-6)


def test_min_snr_stands_a_timestep_of_pure_noise() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=100, rescale_betas_zero_snr=True)
    scheduler.alphas_cumprod[-1] = 0
    assert min_snr_weights(scheduler, torch.tensor([99]), gamma=5.0).tolist() == [1.0]
