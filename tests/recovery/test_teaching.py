"""Teaching few steps: what every method lands on, what it refuses, and what a stock pipeline makes of the result."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from pydantic import ValidationError
from safetensors.torch import load_file

from exporters.coefficients import clip_range, trajectory
from exporters.reference import Reference
from exporters.resume import KeptCalls
from exporters.settings import ExportSettings
from tests.latent import CLASSES, tiny_class_ldm
from tests.tiny import SMALLEST, randomise, tiny_folder
from toolkit.core.errors import UsageError
from toolkit.core.files import write_json
from toolkit.core.noise import generator, normal
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.conditions import Conditions
from toolkit.data.images import Images
from toolkit.diffusion.few_steps import (
    few_step_scheduler,
    folded_guidance,
    path_scheduler,
    solver_along,
    step_rows,
    taught_steps,
)
from toolkit.diffusion.path import landings_and_path
from toolkit.diffusion.sampling import build_scheduler, denoise
from toolkit.evaluation.samples import SamplingSettings, own_plan
from toolkit.models.autoencoder import find_autoencoder
from toolkit.models.build import load_denoiser
from toolkit.models.conditioners import Unconditional, open_conditioner
from toolkit.models.conditioning import Conditioning
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.latents import Latents
from toolkit.models.save import save_model
from toolkit.models.schedulers import load_scheduler, save_scheduler
from toolkit.pipeline.recover import recover
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.teaching import Lesson, Stage, known_methods, method_of, schedulers, stages_of
from toolkit.report import tables

METHODS, KINDS, SHAPE = list(known_methods()), ("epsilon", "v_prediction", "sample"), (3, 8, 8)
LEVELS = {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.2}  # of the usual 1,000: noise at the end
LEVELS_OF_SCHEDULES: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 250},
    {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
]
PLAN = {"class": "UNet2DModel", "config": {}, "requested": {"criterion": "random"}, "groups": {}, "tensors": {}}
SETTINGS = {"steps": 2, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1, "trajectories": 70}
TAUGHT = {"sampling_steps": 2, "teaching_steps": 6, "teacher_steps": 10, "prediction_type": "v_prediction"}


def images(count: int = 40) -> Images:
    pixels = generator("tiny images", 0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Images("test", SHAPE, "0" * 64, tuple(range(count)), lambda number: pixels[number])


class OneImage(torch.nn.Module):
    """The exact denoiser of a data set that is ``pixel`` everywhere: every path is straight, in whatever steps."""

    def __init__(self, scheduler, kind: str, pixel: float) -> None:
        super().__init__()
        self.kept, self.kind, self.pixel = scheduler.alphas_cumprod, kind, pixel

    def forward(self, x: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        signal, sigma = (part[:, None, None, None] for part in (self.kept[t] ** 0.5, (1 - self.kept[t]) ** 0.5))
        clean = torch.ones_like(x) * self.pixel
        noise = (x - signal * clean) / sigma
        return ({"epsilon": noise, "v_prediction": signal * noise - sigma * clean, "sample": clean}[self.kind],)


def taught(
    method: str, kind: str, pixel: float, tmp_path: Path, *, image: float = 0.25, steps: int = 2, clip: bool = True
) -> tuple[Lesson, Any]:
    """A student that knows one image, taught by a teacher that knows another one, ``image``; and what it minimises."""
    settings = RecoverSettings(**SETTINGS, sampling_steps=steps, teacher_steps=4, teaching=method)
    noise_levels = DDPMScheduler(**LEVELS, prediction_type="epsilon", clip_sample=clip)
    stages = stages_of(settings)
    student, teacher = schedulers(noise_levels, stages, 0, RecoverSettings(prediction_type=kind))
    knows = OneImage(student, kind, pixel), OneImage(teacher, "epsilon", image)
    conditioner = Unconditional(Conditioning("none", 0, False, None))
    clean = Images("test", SHAPE, "0" * 64, tuple(range(8)), lambda number: np.full((8, 8, 3), 159, dtype=np.uint8))
    given = (clean, conditioner, settings, SHAPE, tmp_path / method, "0" * 64, torch.device("cpu"))
    lesson = Lesson(stages[0], *knows, student, teacher, *given)
    return lesson, method_of(settings).objective(lesson, (0, 1), lambda: None, lambda *status: None)


def landing(method: str, kind: str, pixel: float, tmp_path: Path) -> float:
    """The loss of that student."""
    objective = taught(method, kind, pixel, tmp_path)[1]
    return float(objective(objective.load(range(4)))["landing"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_error_of_the_prediction(method: str, kind: str, tmp_path: Path) -> None:
    """A student that knows the teacher's image loses nothing; one that is 0.1 off loses that, in units of its kind."""
    # What is noise to the dense model at its first timestep is so nearly at the student's first, which is earlier.
    assert landing(method, kind, 0.25, tmp_path) == pytest.approx(0, abs=1e-4 if method == "trajectory" else 1e-5)
    off = landing(method, kind, 0.35, tmp_path)
    if kind == "sample":
        assert off == pytest.approx(0.01, rel=0.15 if method == "trajectory" else 0.02)
    kept = DDPMScheduler(**LEVELS).alphas_cumprod[[99, 49]]
    of_clean = {"epsilon": kept / (1 - kept), "v_prediction": 1 / (1 - kept), "sample": torch.ones(2)}[kind]
    if method == "progressive":  # each image at one of the two timesteps; the other method's second step starts apart
        assert float(of_clean.min()) * 0.0098 <= off <= float(of_clean.max()) * 0.0102


@pytest.mark.parametrize(
    ("image", "pixel", "clip", "expected"),
    [
        (1.0, 1.5, True, 0.0),
        (-1.0, -1.5, True, 0.0),
        (1.5, 1.5, True, 0.0),  # the dense model clips
        (1.0, 1.5, False, 0.25),  # a latent is not shown
        (1.0, -1.5, True, 4.0),
        (0.5, 1.5, True, 0.25),
    ],
)
def test_images_are_compared_as_they_are_shown(
    image: float, pixel: float, clip: bool, expected: float, tmp_path: Path
) -> None:
    lesson, objective = taught("trajectory", "sample", pixel, tmp_path, image=image, steps=1, clip=clip)
    lesson.student.pixel = torch.tensor(pixel, requires_grad=True)
    lost = objective(objective.load(range(4)))["landing"]
    lost.backward()
    assert lost.item() == pytest.approx(expected, abs=1e-5)
    pull = math.copysign(2 * expected**0.5, pixel - image)  # also on what lies beyond the bounds
    assert lesson.student.pixel.grad.item() == pytest.approx(pull, abs=1e-4)


@pytest.mark.parametrize("forced", [True, False])
def test_steps_start_on_the_trajectory_and_later_where_the_student_landed(forced: bool, tmp_path: Path) -> None:
    lesson, objective = taught("trajectory", "sample", 0.35, tmp_path)
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    lesson.student.register_forward_pre_hook(lambda _, given: calls.append(given))
    samples = lesson.settings.teaching_steps * lesson.settings.batch_size // 2
    points = objective.load(range(4) if forced else range(samples - 4, samples))
    objective(points)
    assert len(calls) == (1 if forced else 2), "states that are known go through the student together"
    first, second = torch.cat([states for states, _ in calls]).chunk(2)
    early, late = lesson.scheduler.timesteps.tolist()
    assert torch.cat([t for _, t in calls]).tolist() == [early] * 4 + [late] * 4
    landed = lesson.scheduler.step(torch.full_like(first, 0.35), early, first).prev_sample
    assert torch.equal(first, points.points[:, 0]) and not torch.allclose(landed, points.points[:, 1], atol=1e-3)
    torch.testing.assert_close(second, points.points[:, 1] if forced else landed)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_each_number_of_steps_has_exact_timesteps(steps: int) -> None:
    scheduler = few_step_scheduler(DDPMScheduler(), steps, "v_prediction")
    expected = [1000 - 1000 // steps * step - 1 for step in range(steps)]
    assert scheduler.timesteps.tolist() == expected == scheduler.config["_taught"][str(steps)]
    assert taught_steps(scheduler) == [steps]
    assert build_scheduler(scheduler, "ddim", steps).timesteps.tolist() == expected
    assert taught_steps(few_step_scheduler(scheduler, 3, "sample")) == [3], "what was taught before is forgotten"


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        ("trajectory", 1, [945]),
        ("trajectory", 2, [460, 60]),
        ("trajectory", 4, [660, 460, 260, 60]),
        ("trajectory", 6, [725, 592, 459, 326, 193, 60]),
        ("trajectory", 8, [760, 660, 560, 460, 360, 260, 160, 60]),
        ("progressive", 4, [999, 749, 499, 249]),
    ],
)
def test_the_student_s_steps_are_among_its_teacher_s(method: str, steps: int, expected: list[int]) -> None:
    stages = stages_of(RecoverSettings(sampling_steps=steps, teaching=method))
    student, teacher = schedulers(DDPMScheduler(), stages, len(stages) - 1, RecoverSettings())
    assert student.timesteps.tolist() == expected == student.config["_taught"][str(steps)]
    assert set(expected) <= set(teacher.timesteps.tolist()) and len(teacher.timesteps) == stages[-1].teacher_steps
    assert build_scheduler(student, "ddim", steps).timesteps.tolist() == expected


@pytest.mark.parametrize("levels", LEVELS_OF_SCHEDULES)
@pytest.mark.parametrize("more", [2, 3, 6, 16])
@pytest.mark.parametrize("landings", range(1, 9))
def test_a_path_goes_from_noise_through_the_landings_to_next_to_none(
    landings: int, more: int, levels: dict[str, Any]
) -> None:
    scheduler = DDPMScheduler(**levels)
    own, path = landings_and_path(scheduler, landings, landings + more)
    noise = (1 - scheduler.alphas_cumprod).sqrt()
    assert path == sorted(set(path), reverse=True) and len(path) == landings + more
    assert set(own) <= set(path) and len(own) == landings
    assert len(set(np.diff(own).tolist())) <= 1
    assert noise[path[-1]] < noise[path[-2]] / 1.5 and noise[path[-2]] <= 0.205
    if landings > 1:
        assert own[-1] == path[-2]
        gaps = -np.diff(path[path.index(own[0]) : -1])
        assert gaps.max() <= 3 * gaps.min(), "no part of the path is left to a few steps"


@pytest.mark.parametrize("levels", LEVELS_OF_SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_a_stock_scheduler_takes_the_landings_at_the_dense_model_s_noise(steps: int, levels: dict[str, Any]) -> None:
    dense = DDPMScheduler(**levels)
    landings, _ = landings_and_path(dense, steps, 20)
    taught = few_step_scheduler(dense, steps, "v_prediction", landings)
    stock = DDIMScheduler.from_config(json.loads(json.dumps(dict(taught.config))))
    stock.set_timesteps(steps)
    assert stock.timesteps.tolist() == landings
    assert torch.equal(stock.alphas_cumprod, dense.alphas_cumprod[: len(stock.alphas_cumprod)])


def test_the_default_path_is_that_of_decision_15() -> None:
    assert landings_and_path(DDPMScheduler(), 4, 10)[1] == [932, 796, 660, 560, 460, 360, 260, 160, 60, 10]


def test_the_solver_takes_the_path_s_timesteps_whatever_spacing_the_model_has() -> None:
    path = list(range(960, 0, -50))
    solver = solver_along(DPMSolverMultistepScheduler(use_karras_sigmas=True, solver_order=3), path)
    assert solver.timesteps.tolist() == path and solver.config.solver_order == 2


def test_rows_step_as_the_scheduler_does() -> None:
    scheduler = path_scheduler(DDPMScheduler(num_train_timesteps=100), 4)
    x, prediction = (torch.from_numpy(normal("rows", 0, place, shape=(6, *SHAPE))) for place in (0, 1))
    t = torch.tensor([99, 74, 24, 74, 49, 99])
    rows = [scheduler.step(prediction[i : i + 1], int(t[i]), x[i : i + 1]).prev_sample for i in range(6)]
    assert torch.equal(step_rows(scheduler, prediction, t, x), torch.cat(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_exported_coefficients_land_as_the_scheduler_does(steps: int, kind: str) -> None:
    scheduler = few_step_scheduler(DDPMScheduler(), steps, kind)
    rows = trajectory(scheduler, "ddim", steps)
    assert rows["timesteps"] == scheduler.timesteps.tolist() and clip_range(scheduler, "ddim") is None
    x, prediction = (torch.from_numpy(normal("rows", 1, place, shape=(1, *SHAPE))) for place in (0, 1))
    for t, (a, b, divisor, of_clean, of_sample, of_prediction, of_noise) in zip(*rows.values(), strict=True):
        landed = of_clean * (a * x + b * prediction) / divisor + of_sample * x + of_prediction * prediction
        expected = scheduler.step(prediction, t, x).prev_sample
        torch.testing.assert_close(landed, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert of_noise == 0


@pytest.mark.parametrize("method", METHODS)
def test_stages_end_at_the_requested_steps_and_use_all_training(method: str) -> None:
    for steps in (1, 2, 4, 8):
        stages = stages_of(RecoverSettings(sampling_steps=steps, teaching=method, teaching_steps=101))
        assert stages[-1].steps == steps and sum(stage.training for stage in stages) == 101
        assert all(late.teacher_steps == early.steps for early, late in itertools.pairwise(stages))
    with pytest.raises(UsageError, match=r"teacher's steps (do not halve|are too few)[\s\S]*set recover.teacher_steps"):
        stages_of(RecoverSettings(sampling_steps=4, teaching=method, teacher_steps=5))


def test_what_cannot_be_taught_is_refused_with_the_known() -> None:
    with pytest.raises(UsageError, match=r"Unknown method of teaching 'osmosis'[\s\S]*progressive, trajectory"):
        stages_of(RecoverSettings(sampling_steps=4, teaching="osmosis"))
    with pytest.raises(UsageError, match=r"batch size 3, 4 steps[\s\S]*--batch-size"):
        stages_of(RecoverSettings(sampling_steps=4, batch_size=3))
    with pytest.raises(UsageError, match=r"8 steps are not part of 24[\s\S]*teacher_steps"):
        schedulers(DDPMScheduler(num_train_timesteps=50), [Stage(8, 24, 1)], 0, RecoverSettings())
    with pytest.raises(UsageError, match=r"No path of 24 steps[\s\S]*20 training timesteps[\s\S]*teacher_steps"):
        schedulers(DDPMScheduler(num_train_timesteps=20), [Stage(2, 24, 1, along_path=True)], 0, RecoverSettings())


def test_noise_is_not_predicted_where_nothing_else_is_left() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=100, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    settings = RecoverSettings(sampling_steps=2, teaching="progressive", teacher_steps=4, prediction_type="epsilon")
    with pytest.raises(UsageError, match=r"lands nowhere[\s\S]*epsilon at timestep 99[\s\S]*v_prediction"):
        schedulers(scheduler, stages_of(settings), 0, settings)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelFolder]:
    path = tmp_path_factory.mktemp("teaching")
    dense = tiny_folder(path / "dense", **SMALLEST)
    with RunFolder.create(path / "run").writing(Request("prune", {}, {})) as prune:
        tiny_folder(prune / "model", seed=1, **SMALLEST | {"block_out_channels": (8,)})
        write_json(prune / "plan.json", PLAN)
    return path / "run", dense


def run_of(pruned: tuple[Path, ModelFolder], path: Path) -> RunFolder:
    shutil.copytree(pruned[0], path)
    return RunFolder.open(path)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model" / "unet" / "diffusion_pytorch_model.safetensors")


class Killed(Exception):
    pass


def kill_at(number: int):
    calls = iter(range(number))

    def progress(work: str, done: int, total: int) -> None:
        if work.startswith("teaching") and next(calls, None) is None:
            raise Killed

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_taught_weights_are_the_same_however_interrupted(method: str, pruned, tmp_path: Path) -> None:
    whole, parts = (run_of(pruned, tmp_path / name) for name in ("whole", "parts"))
    halving = {"teacher_steps": 8} if method == "progressive" else {}
    settings = RecoverSettings(**SETTINGS | TAUGHT | halving, teaching=method)
    found = recover(whole, settings, pruned[1], images())
    assert (
        found["teaching"]["timesteps"] == {"trajectory": [59, 19], "progressive": [99, 49]}[method]
        and found["teaching"]["steps"] == 6
    )
    for number in (0, 2, 1):
        with pytest.raises(Killed):
            recover(parts, settings, pruned[1], images(), progress=kill_at(number))
    recover(parts, settings, pruned[1], images())
    assert all(torch.equal(weights(parts)[name], tensor) for name, tensor in weights(whole).items())


@pytest.mark.slow
def test_teaching_follows_recovery_and_starts_again_when_that_goes_on(pruned, tmp_path: Path) -> None:
    one, other = (run_of(pruned, tmp_path / name) for name in ("one", "other"))
    longer = SETTINGS | {"steps": 4}
    recover(one, RecoverSettings(**SETTINGS), pruned[1], images())
    plain = weights(one)
    for settings in (SETTINGS, longer):
        recover(one, RecoverSettings(**settings, **TAUGHT), pruned[1], images())
    recover(other, RecoverSettings(**longer, **TAUGHT), pruned[1], images())
    assert any(not torch.equal(weights(one)[name], tensor) for name, tensor in plain.items())
    recover(one, RecoverSettings(**longer), pruned[1], images())
    assert taught_steps(load_scheduler(find_model(one.path / "model"))) == [], "not taught any more"


def test_without_recovery_the_pruned_model_itself_is_taught(pruned, tmp_path: Path) -> None:
    run = run_of(pruned, tmp_path / "run")
    found = recover(
        run, RecoverSettings(**SETTINGS | TAUGHT | {"steps": 0, "teaching_rate": 1e-9}), pruned[1], images()
    )
    assert (found["steps"], found["losses"], found["teaching"]["steps"]) == (0, {}, 6)
    assert not any("Recovered" in line for line in tables.recovery(found))
    before = load_denoiser(find_model(run.path / "prune" / "model")).state_dict()
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
    with pytest.raises(ValidationError, match="0 steps of recovery need sampling_steps"):
        RecoverSettings(steps=0)


def test_a_taught_model_that_is_recovered_is_sampled_as_the_dense_one(pruned, tmp_path: Path) -> None:
    """As when a run resumes from one that was taught: recovery makes it predict the noise again."""
    run = run_of(pruned, tmp_path / "run")
    before = run.path / "prune" / "model"
    save_scheduler(few_step_scheduler(load_scheduler(pruned[1]), 2, "v_prediction", [59, 19]), before)
    recover(run, RecoverSettings(**SETTINGS), pruned[1], images())
    model = find_model(run.path / "model")
    assert taught_steps(load_scheduler(find_model(before))) == [2]
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        assert (model.root / name).read_text() == (pruned[1].root / name).read_text()


@pytest.mark.slow
def test_a_stock_pipeline_samples_as_it_was_taught(pruned, tmp_path: Path) -> None:
    run = run_of(pruned, tmp_path / "run")
    recover(run, RecoverSettings(**SETTINGS, **TAUGHT), pruned[1], images())
    model = find_model(run.path / "model")
    assert isinstance(DiffusionPipeline.from_pretrained(model.root), DDIMPipeline)
    pipeline = DDIMPipeline.from_pretrained(model.root)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(generator=torch.manual_seed(0), num_inference_steps=2, output_type="np").images
    x, scheduler = torch.randn((1, *SHAPE), generator=torch.manual_seed(0)), load_scheduler(model)
    assert scheduler.config["_taught"] == {"2": [59, 19]}
    asked = SamplingSettings("dpm-solver", 20, seed=0)
    assert own_plan(model, asked) == SamplingSettings("ddim", 2, seed=0) and own_plan(pruned[1], asked) == asked
    network = load_denoiser(model)
    taken = [(t, torch.tensor([t])) for t in (59, 19)]
    stepper = few_step_scheduler(load_scheduler(pruned[1]), 2, "v_prediction", [59, 19])
    with torch.no_grad():
        made = denoise(lambda x, t: network(x, t).sample, stepper, "ddim", x, taken, {})
    np.testing.assert_allclose(pictures[0], (made[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy(), atol=1e-5)


def labelled(count: int = 12) -> Images:
    pixels = generator("conditions", 0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    described = Conditions({"class": tuple(number % CLASSES for number in range(count))})
    return Images("test", (3, 16, 16), "0" * 64, tuple(range(count)), lambda n: pixels[n], described=described)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_latent_model_with_classes_learns_its_guided_trajectories(guidance: float, tmp_path: Path) -> None:
    """DPM-Solver++ and guidance written out, along the path of number 5; at 1 some conditions are dropped."""
    dense, run = tiny_class_ldm(tmp_path / "dense"), RunFolder.create(tmp_path / "run")
    with run.writing(Request("prune", {}, {})) as prune:
        save_model(dense, randomise(load_denoiser(dense), 1), prune / "model")
    autoencoder = find_autoencoder(dense)
    assert autoencoder is not None
    latents = Latents(labelled(), autoencoder, run.path / "cache")
    mix = {"losses": {"distillation": 1.0}, "condition_dropout": 0.5, "teaching_guidance": guidance}
    settings = RecoverSettings(**SETTINGS, sampling_steps=2, teacher_steps=4, teaching_steps=2, **mix)
    assert np.isfinite(recover(run, settings, dense, latents)["teaching"]["losses"]["landing"])
    (shard,) = (np.load(path) for path in run.path.glob("cache/trajectories/*/00000000.npy"))
    taught = find_model(run.path / "model")
    assert folded_guidance(load_scheduler(taught)) == guidance
    guided = SamplingSettings("ddim", 2, seed=0, guidance=4.0)
    assert own_plan(taught, guided).guidance == (4.0 if guidance == 1 else 1.0), "what it learned is not added again"
    reference = Reference(taught, ExportSettings(), "cpu", KeptCalls(None))
    assert reference.is_guided == (guidance == 1)

    network, scheduler = load_denoiser(dense), load_scheduler(dense)
    path = landings_and_path(scheduler, 2, 4)[1]
    dropped = guidance == 1 and generator("teaching condition", 0, 5).random() < 0.5
    given, null = (open_conditioner(dense)([label]) for label in (None if dropped else 5 % CLASSES, None))
    x = torch.from_numpy(normal("teaching noise", 0, 5, shape=dense.input_specs()["sample"].shape))[None]
    alpha, sigma = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
    half_log_snr, clean = (alpha / sigma).log(), []
    with torch.no_grad():
        for n, (t, until) in enumerate(zip(path, [*path[1:], None], strict=True)):
            towards, away = (network(x, torch.tensor([t]), **condition).sample for condition in (given, null))
            clean.append((x - sigma[t] * (away + guidance * (towards - away))) / alpha[t])
            if until is None:
                break
            h = half_log_snr[until] - half_log_snr[t]
            r = (half_log_snr[t] - half_log_snr[path[n - 1]]) / h
            d = clean[-1] + (clean[-1] - clean[-2]) / (2 * r) if n else clean[-1]
            x = sigma[until] / sigma[t] * x + alpha[until] * (1 - torch.exp(-h)) * d
    x = clean[-1]
    np.testing.assert_allclose(shard[5, -1], x[0].numpy(), rtol=1e-3, atol=1e-3 * float(x.abs().max()))
    assert shard.shape[:2] == (64, 3)
