"""A model in memory is pruned as a folder is: same result, any kind of data, input untouched, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, ModelMixin
from PIL import Image

import toolkit
from tests.latent import FOLDERS
from tests.tiny import tiny_conditional_unet, tiny_dit, tiny_folder, tiny_unet
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import generator

SCHEDULER = DDPMScheduler(num_train_timesteps=100)
FAST: dict[str, Any] = {
    "target": "macs=0.45",
    "align": 4,
    "calibration_images": 6,
    "threshold": 0.5,
    "score_timesteps": 8,
}
PIXELS = generator("api images", 0).integers(0, 256, (16, 3, 8, 8), dtype=np.uint8)
LATENTS = generator("api latents", 0).standard_normal((16, 4, 8, 8), dtype=np.float32)


def weights(model: ModelMixin) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def small() -> ModelMixin:
    return toolkit.prune(tiny_unet(), data=PIXELS, scheduler=SCHEDULER, **FAST)


CLASSES: dict[str, tuple[Callable[[], ModelMixin], str, dict[str, Any]]] = {
    "UNet2DModel": (tiny_unet, "macs=0.45", {"data": PIXELS}),
    "UNet2DConditionModel": (
        tiny_conditional_unet,
        "width=0.75",
        {"data": LATENTS, "value_range": "latents", "context": torch.ones(16, 3, 12)},
    ),
    "DiTTransformer2DModel": (
        tiny_dit,
        "params=0.6112",
        {"data": LATENTS, "value_range": "latents", "conditions": [n % 10 for n in range(16)]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_in_memory_becomes_a_smaller_stock_module(
    class_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, target, data = CLASSES[class_name]
    dense = make().train()
    before = weights(dense)
    pruned = toolkit.prune(dense, scheduler=SCHEDULER, **FAST | {"target": target} | data)
    assert equal(weights(dense), before) and dense.training
    assert all(parameter.grad is None for parameter in dense.parameters())
    assert list(tmp_path.iterdir()) == []
    assert type(pruned) is type(dense) and not pruned.training
    assert pruned.num_parameters() == pruned.plan.achieved.params < dense.num_parameters()
    pruned.save_pretrained(tmp_path / "stock")
    assert equal(weights(type(dense).from_pretrained(tmp_path / "stock")), weights(pruned))


def halved(folder: Path) -> list[Any]:
    return [Image.fromarray(image.transpose(1, 2, 0)) for image in PIXELS]


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a tensor in [-1, 1]": lambda _: {
        "data": torch.from_numpy(PIXELS).float() / 127.5 - 1,
        "value_range": (-1.0, 1.0),
    },
    "an array in [0, 1]": lambda _: {"data": PIXELS.astype(np.float64) / 255, "value_range": (0, 1)},
    "an iterable of PIL images": lambda folder: {"data": iter(halved(folder))},
    "(image, class) pairs, as torch's data sets": lambda _: {"data": [(image, 0) for image in PIXELS]},
    "dicts, as the package datasets": lambda folder: {"data": [{"image": i, "label": 1} for i in halved(folder)]},
    "a file": lambda folder: {"data": _stored(folder / "images.npz")},
}


def _stored(path: Path) -> Path:
    np.savez(path, images=PIXELS)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_same_images_in_any_form_give_the_same_model(source: str, small: ModelMixin, tmp_path: Path) -> None:
    pruned = toolkit.prune(tiny_unet(), scheduler=SCHEDULER, **FAST, **SOURCES[source](tmp_path))
    for name, tensor in weights(pruned).items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_module_pipeline_and_folder_give_the_same_model(small: ModelMixin, tmp_path: Path) -> None:
    pipeline = DDPMPipeline(tiny_unet(), SCHEDULER)
    folder = tiny_folder(tmp_path / "model").root
    for model in (pipeline, folder):
        assert equal(weights(toolkit.prune(model, data=PIXELS, **FAST)), weights(small))


@pytest.mark.slow
def test_the_prune_stage_of_a_run_gives_the_same_model(small: ModelMixin, tmp_path: Path) -> None:
    folder, data = tiny_folder(tmp_path / "model").root, _stored(tmp_path / "images.npz")
    run = toolkit.compress(folder, data=data, out=tmp_path / "run", recover=False, **FAST | {"calibration_images": 7})
    again = toolkit.prune(folder, data=PIXELS, **FAST | {"calibration_images": 7})
    assert run.plan().achieved == again.plan.achieved == small.plan.achieved


@pytest.mark.slow
def test_a_plan_reads_no_weights_and_is_what_pruning_achieves(small: ModelMixin, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model").root
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for model in (tiny_unet(), DDPMPipeline(tiny_unet(), SCHEDULER), folder):
        plan = toolkit.plan(model, target="macs=0.45", align=4)
        assert plan.achieved == small.plan.achieved
        assert plan.widths == {"level 0": (16, 8), "levels 1-2": (32, 24)}


def test_a_plan_states_each_bound_as_requested_and_as_achieved() -> None:
    plan = toolkit.plan(tiny_unet(), target="macs<=0.6,params<=140k,width<=0.75", align=4)
    achieved = {"macs<=0.6": plan.macs_fraction, "params<=140k": plan.achieved.params}
    achieved["width<=0.75"] = max(compressed / dense for dense, compressed in plan.widths.values())
    assert {text: one for text, (_, one) in plan.bounds.items()} == achieved
    assert {text: one for text, (one, _) in plan.bounds.items()} == dict(zip(achieved, (0.6, 140e3, 0.75), strict=True))
    assert all(one <= requested for requested, one in plan.bounds.values())


def test_a_criterion_without_images_needs_no_data() -> None:
    assert toolkit.prune(tiny_unet(), scheduler=SCHEDULER, criterion="magnitude", **FAST).plan.macs_fraction < 0.46


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a float array without its range": ({"data": PIXELS / 255}, r"range of the data's values[\s\S]*value_range="),
    "values outside of their range": (
        {"data": PIXELS.astype(float), "value_range": (0, 1)},
        r"not in their range[\s\S]*found: 0 to 255[\s\S]*expected: 0 to 1",
    ),
    "images of another shape": ({"data": PIXELS[:, :, :4]}, r"does not fit the model[\s\S]*\(N, \(3, 8, 8\)\)"),
    "too few images": ({"data": PIXELS[:4]}, "too few images to calibrate on"),
    "conditions of another number": ({"data": PIXELS, "conditions": [0]}, "not one condition per image"),
    "an element that is no image": ({"data": ["a.png"]}, r"holds no image[\s\S]*found: str"),
    "no data": ({}, r"scores on images[\s\S]*give data="),
    "no scheduler": ({"data": PIXELS, "scheduler": None}, r"noise levels[\s\S]*scheduler="),
    "an unknown option": ({"data": PIXELS, "alignment": 4}, "prune.alignment"),
    "an idle option": ({"data": PIXELS, "batch": 4}, "--batch would change nothing"),
    "a target out of reach": ({"data": PIXELS, "target": "macs=0.01"}, "nearest above"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pruned_is_refused_in_words(case: str) -> None:
    changed, words = REFUSED[case]
    with pytest.raises(DtkError, match=words):
        toolkit.prune(tiny_unet(), **FAST | {"scheduler": SCHEDULER} | changed)


def test_a_bare_denoiser_that_takes_a_context_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match=r"encoder_hidden_states[\s\S]*context= \(N, S, D\)"):
        toolkit.prune(tiny_conditional_unet(), data=LATENTS, value_range="latents", scheduler=SCHEDULER, **FAST)


def test_results_are_frozen_and_json_is_a_copy(small: ModelMixin) -> None:
    plan = small.plan
    with pytest.raises(FrozenInstanceError):
        plan.folder = Path()
    plan.to_json()["dense"] = None
    assert plan.to_json()["dense"] == {"params": plan.dense.params, "macs": plan.dense.macs}
    assert "level 0" in plan._repr_html_()


@pytest.mark.slow
def test_progress_is_reported_to_whoever_asks() -> None:
    seen: list[tuple[str, int, int]] = []
    toolkit.prune(tiny_unet(), data=PIXELS, scheduler=SCHEDULER, progress=lambda *report: seen.append(report), **FAST)
    assert ("scoring", 8, 8) in seen


@pytest.mark.parametrize("kind", ["caption", "sdxl"])
def test_a_pipeline_in_memory_costs_what_its_folder_costs(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind](tmp_path).root
    plans = [toolkit.plan(model, target="width=0.5") for model in (folder, DiffusionPipeline.from_pretrained(folder))]
    assert plans[0].dense == plans[1].dense and plans[0].achieved == plans[1].achieved


def test_the_length_of_a_context_counts_in_pruning_as_in_planning() -> None:
    dense, options = tiny_conditional_unet(), {"target": "width=0.5", "tokens": 1000}
    planned = toolkit.plan(dense, **options)
    given = {"scheduler": DDPMScheduler(), "context": torch.zeros(1, 5, dense.config.cross_attention_dim)}
    pruned: Any = toolkit.prune(dense, **given, **options, criterion="magnitude")
    assert pruned.plan.dense == planned.dense
    assert toolkit.plan(dense, target="width=0.5").dense.macs < planned.dense.macs
