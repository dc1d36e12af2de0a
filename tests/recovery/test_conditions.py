"""Recovery drops conditions to null at the asked share, and teacher and student see the same one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.latent import CLASSES, tiny_class_ldm, tiny_labelled
from tests.tiny import randomise
from toolkit.core.noise import generator
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.conditions import Conditions
from toolkit.data.images import Images
from toolkit.models.autoencoder import find_autoencoder
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.models.latents import Latents
from toolkit.models.save import save_model
from toolkit.pipeline import recover as module
from toolkit.pipeline.recover import recover
from toolkit.recovery.batches import Batches
from toolkit.recovery.settings import RecoverSettings

CPU = torch.device("cpu")


def images(count: int = 12) -> Images:
    pixels = generator("conditions", 0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    described = Conditions({"class": tuple(number % CLASSES for number in range(count))})
    return Images("test", (3, 16, 16), "0" * 64, tuple(range(count)), lambda n: pixels[n], described=described)


def conditions(samples: range, dropout: float, seed: int = 0) -> list:
    return Batches(images(), 100, seed, False, kind="class", dropout=dropout)(samples, CPU).conditions


def test_the_asked_share_is_dropped() -> None:
    dropped = [condition is None for condition in conditions(range(4000), 0.1)]
    assert 0.08 < np.mean(dropped) < 0.12
    assert conditions(range(50), 1.0) == [None] * 50
    assert None not in conditions(range(50), 0.0)


def test_what_is_dropped_is_a_function_of_the_sample() -> None:
    whole = conditions(range(40), 0.5)
    assert conditions(range(10, 20), 0.5) == whole[10:20]
    assert conditions(range(40), 0.5, seed=1) != whole
    more = conditions(range(40), 0.7)
    assert all(other is None for one, other in zip(whole, more, strict=True) if one is None)


def test_what_is_not_dropped_is_the_images_own() -> None:
    plain, dropping = conditions(range(100), 0.0), conditions(range(100), 0.5)
    assert {a for a, b in zip(plain, dropping, strict=True) if b is None} == {0, 1, 2}
    assert all(b in (a, None) for a, b in zip(plain, dropping, strict=True))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list]]:
    """What the conditioner is asked for, and what both networks are given, step by step."""
    seen: dict[str, list] = {"conditions": [], "teacher": [], "student": []}
    original = module.prepare

    def prepared(*args: object, **options: object) -> object:
        training, state = original(*args, **options)
        conditioner = training.objective.conditioner

        def noting(conditions: list) -> dict[str, torch.Tensor]:
            seen["conditions"].append(list(conditions))
            return conditioner(conditions)

        object.__setattr__(training.objective, "conditioner", noting)
        for name, network in (("teacher", training.objective.teacher), ("student", training.student)):
            network.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: seen[name].append(kwargs["encoder_hidden_states"].clone()),
                with_kwargs=True,
            )
        return training, state

    monkeypatch.setattr(module, "prepare", prepared)
    return seen


def a_run(tmp_path: Path, make) -> tuple[RunFolder, ModelFolder, Latents]:
    dense, run = make(tmp_path / "dense"), RunFolder.create(tmp_path / "run")
    with run.writing(Request("prune", {}, {})) as prune:
        pruned = load_denoiser(dense)
        save_model(dense, randomise(pruned, 1), prune / "model")
    autoencoder = find_autoencoder(dense)
    assert autoencoder is not None
    return run, dense, Latents(images(), autoencoder, run.path / "cache")


def test_the_teacher_gets_the_students_condition(tmp_path: Path, asked) -> None:
    run, dense, latents = a_run(tmp_path, tiny_class_ldm)
    settings = RecoverSettings(steps=2, batch_size=8, condition_dropout=0.5, losses={"noise": 1.0, "distillation": 1.0})
    recover(run, settings, dense, latents)
    assert len(asked["teacher"]) == len(asked["student"]) == 2
    assert all(torch.equal(a, b) for a, b in zip(asked["teacher"], asked["student"], strict=True))
    given = [condition for batch in asked["conditions"] for condition in batch]
    assert None in given and {0, 1, 2} & set(given)


def test_a_model_without_a_null_class_drops_nothing(tmp_path: Path) -> None:
    run, dense, latents = a_run(tmp_path, tiny_labelled)
    settings = RecoverSettings(steps=1, batch_size=8, condition_dropout=1.0, losses={"noise": 1.0})
    assert recover(run, settings, dense, latents)["steps"] == 1  # the null class would be refused
