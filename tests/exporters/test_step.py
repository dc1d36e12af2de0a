"""The step graph: every update equals diffusers' own, and a loop that only feeds it samples what torch samples."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from exporters.coefficients import COLUMNS, clip_range, trajectories, trajectory
from exporters.step import SamplerStep, export_step, step_specs
from tests.exported import specs_of, tiny_model
from tests.tiny import tiny_unet
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import sample_noise
from toolkit.diffusion.few_steps import few_step_scheduler
from toolkit.diffusion.sampling import build_scheduler, sample
from toolkit.diffusion.step_loop import sample_steps
from toolkit.models.build import load_denoiser
from toolkit.models.precision import BorderedDenoiser
from toolkit.runners.onnxruntime import OnnxRuntimeRunner

KINDS = ("epsilon", "v_prediction", "sample")
CLIPS: dict[str, dict[str, Any]] = {
    "clipped": {"clip_sample": True},
    "clipped at 2": {"clip_sample": True, "clip_sample_range": 2.0},
    "free": {"clip_sample": False},
}
NOISES: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trailing": {"timestep_spacing": "trailing"},
    "short": {"num_train_timesteps": 100},
}
SHAPE = (2, 4, 4)


class Fixed(torch.nn.Module):
    """A denoiser whose prediction is given: what is tested is the update."""

    def __init__(self, prediction: torch.Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.prediction,)


def noise(place: int) -> torch.Tensor:
    return torch.from_numpy(sample_noise(range(3), place, SHAPE))


def worst_step(scheduler: Any, sampler: str) -> float:
    """The largest difference between a step of the graph and diffusers' own, with the same noise where one is drawn."""
    scheduler.set_timesteps(10)
    x, prediction = noise(1), noise(2)
    step = SamplerStep(BorderedDenoiser(Fixed(prediction)), clip_range(scheduler, sampler))
    table, worst = trajectory(scheduler, sampler, 10), 0.0
    assert table["timesteps"] == scheduler.timesteps.tolist()
    for t, row in zip(table["timesteps"], table["coefficients"], strict=True):
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        random = {"generator": torch.Generator().manual_seed(t)} if sampler == "ddpm" else {}
        expected = scheduler.step(prediction, t, x, **random).prev_sample
        given = {"noise": drawn} if sampler == "ddpm" else {}
        actual = step(x, torch.full((3,), t), torch.tensor(row).expand(3, -1), **given)
        worst = max(worst, float((actual - expected).abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_every_ddim_step_is_that_of_diffusers(kind: str) -> None:
    worst = {
        (clip, levels): worst_step(DDIMScheduler(prediction_type=kind, **(CLIPS[clip] | NOISES[levels])), "ddim")
        for clip, levels in product(CLIPS, NOISES)
    }
    assert not {case: error for case, error in worst.items() if not error < 1e-5}


VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")  # diffusers makes a NaN of fixed_large_log


@pytest.mark.parametrize("kind", KINDS)
def test_every_ddpm_step_is_that_of_diffusers(kind: str) -> None:
    """It draws its own noise: with the same draw handed to the graph, the step must be the same."""
    worst = {}
    for clip, levels, variance in product(CLIPS, NOISES, VARIANCES):
        options = {"variance_type": variance} | CLIPS[clip] | NOISES[levels]
        worst[clip, levels, variance] = worst_step(DDPMScheduler(prediction_type=kind, **options), "ddpm")
    assert not {case: error for case, error in worst.items() if not error < 1e-5}


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_images_of_one_batch_may_be_at_different_steps(sampler: Any) -> None:
    scheduler, x, prediction = DDPMScheduler(), noise(1), noise(2)
    table = trajectory(scheduler, sampler, 3)
    step = SamplerStep(BorderedDenoiser(Fixed(prediction)), 1.0)
    timesteps, rows = torch.tensor(table["timesteps"]), torch.tensor(table["coefficients"])
    mixed = step(x, timesteps, rows, noise=noise(3))
    for item in range(3):
        alone = SamplerStep(BorderedDenoiser(Fixed(prediction[item : item + 1])), 1.0)
        one = slice(item, item + 1)
        assert torch.equal(mixed[one], alone(x[one], timesteps[one], rows[one], noise=noise(3)[one]))


def test_the_logarithm_of_a_variance_is_the_same_variance() -> None:
    tables = [trajectory(DDPMScheduler(variance_type=f"fixed_large{end}"), "ddpm", 10) for end in ("", "_log")]
    assert tables[0] == tables[1]


def test_only_the_last_ancestral_step_adds_no_noise() -> None:
    rows = np.array(trajectory(DDPMScheduler(), "ddpm", 50)["coefficients"])
    assert rows.shape == (50, len(COLUMNS))
    assert (rows[:-1, -1] > 0).all()
    assert rows[-1, -1] == 0


def test_a_taught_model_has_a_table_of_all_steps_it_can_take_and_others_are_refused() -> None:
    """Its last step starts at timestep 60: in 20 steps the first would start at 820 of 800."""
    scheduler = few_step_scheduler(DDPMScheduler(), 4, "v_prediction", [660, 460, 260, 60])
    found = trajectories(scheduler, "ddim", 100)
    assert found["4"]["timesteps"] == scheduler.config["_taught"]["4"] == [660, 460, 260, 60]
    for steps in range(1, 101):
        if str(steps) in found:
            assert found[str(steps)]["timesteps"][0] < 800
            continue
        with pytest.raises(UsageError, match=rf"in {steps} steps[\s\S]*first timestep of 8\d{{2}}, by steps_offset 60"):
            build_scheduler(scheduler, "ddim", steps)
    assert "20" not in found and len(found) > 10


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "classes"), [("ddim", None), pytest.param("ddpm", 5, marks=pytest.mark.slow)])
def test_the_loop_on_the_exported_graph_is_the_loop_in_torch(sampler: Any, classes: int | None, tmp_path: Path) -> None:
    model, scheduler = tiny_model(classes, one_block=True), DDPMScheduler(num_train_timesteps=100)
    path, specs = tmp_path / "step.onnx", specs_of(model)
    description = export_step(load_denoiser(model), scheduler, specs, path, sampler=sampler, longest=7)
    assert set(description["schedules"]) == {str(steps) for steps in range(1, 8)}
    assert description["classes"] == classes
    assert list(description["inputs"]) == list(step_specs(specs, sampler))
    conditioning = {n: t for n, t in example_inputs(specs, 4).items() if n not in ("sample", "timestep")}
    denoiser = BorderedDenoiser(load_denoiser(model))
    with closing(OnnxRuntimeRunner(path)) as stepper:
        for steps in (1, 7):
            got = sample_steps(stepper, description, range(4), steps, conditioning)
            expected = sample(
                denoiser, scheduler, range(4), specs["sample"].shape, steps, sampler, conditioning=conditioning
            )
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_step_module_leads_from_the_null_condition_to_the_given_one() -> None:
    denoiser, scales = tiny_unet(num_class_embeds=5), torch.tensor([0.0, 1.0, 2.5])
    given, null = torch.tensor([1, 2, 3]), torch.tensor([4, 4, 4])
    x, t = torch.from_numpy(sample_noise(range(3), 1, (3, 8, 8))), torch.tensor([0, 40, 99])
    only_prediction = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]).expand(3, -1)
    step = SamplerStep(BorderedDenoiser(denoiser), None)
    conditioning = {"class_labels": given, "unconditional_class_labels": null}
    found = step(x, t, only_prediction, guidance_scale=scales, **conditioning)
    towards, away = (denoiser(x, t, labels).sample for labels in (given, null))
    expected = away + scales[:, None, None, None] * (towards - away)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_guidance_moves_from_one_prediction_towards_the_other(tmp_path: Path) -> None:
    model, scheduler = tiny_model(5, one_block=True), DDPMScheduler(num_train_timesteps=100)
    path, specs = tmp_path / "step.onnx", specs_of(model)
    export_step(load_denoiser(model), scheduler, specs, path, guided=True, longest=2)
    inputs = example_inputs(step_specs(specs, "ddim", guided=True), 3)
    inputs["coefficients"] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]).expand(3, -1)  # previous = prediction
    inputs["guidance_scale"] = torch.tensor([0.0, 1.0, 2.5])
    denoiser = load_denoiser(model)
    with torch.no_grad():
        given, without = (
            denoiser(inputs["sample"], inputs["timestep"], inputs[name]).sample
            for name in ("class_labels", "unconditional_class_labels")
        )
    expected = without + inputs["guidance_scale"][:, None, None, None] * (given - without)
    torch.testing.assert_close(OnnxRuntimeRunner(path)(**inputs), expected, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_left_out_of_ddim_and_refused_by_ddpm() -> None:
    denoiser = BorderedDenoiser(tiny_unet(out_channels=6))
    step = SamplerStep(denoiser, None)
    inputs = {"sample": torch.zeros(1, 3, 8, 8), "timestep": torch.zeros(1, dtype=torch.int64)}
    only_prediction = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    assert torch.equal(step(**inputs, coefficients=only_prediction), denoiser(**inputs)[:, :3])
    with pytest.raises(DtkError, match=r"cannot hold a learned variance[\s\S]*learned_range"):
        trajectory(DDPMScheduler(variance_type="learned_range"), "ddpm", 5)


def test_dynamic_thresholding_is_refused() -> None:
    with pytest.raises(DtkError, match="cannot hold dynamic thresholding"):
        trajectory(DDIMScheduler(thresholding=True), "ddim", 5)
