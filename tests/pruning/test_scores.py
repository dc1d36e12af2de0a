"""Scores equal a naive second implementation, and every criterion obeys the same laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from tests.pruning.cases import dense_model, prunable_of
from tests.pruning.naive import channel_score, summed_gradients
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import normal
from toolkit.core.progress import silent
from toolkit.pruning import selection
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.criteria.base import Task, criterion_called, known_criteria
from toolkit.pruning.criteria.diff_pruning import HALVES_VISIT, squared_taylor
from toolkit.pruning.gradients import Effort, accumulate_to
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.scores import read_scores, write_scores
from toolkit.pruning.scoring import score_channels

T = 16
CASES = ("heads", "scale-shift", "one-head")


def task(name: str, thresholds: tuple[float, ...] = (0.05,), norm_term: bool = False) -> tuple[Task, Prunable]:
    model = dense_model(name)
    prunable = prunable_of(model)
    size = model.config.sample_size
    shape = (2, 3, size, size)
    images = torch.from_numpy(normal("test images", 0, shape=shape)).tanh()
    noise = torch.from_numpy(normal("test noise", 0, shape=shape))
    calibration = Calibration(images, noise, DDPMScheduler(num_train_timesteps=T, beta_end=0.2))
    return Task(model, prunable.layout, calibration, thresholds, norm_term, 0, silent), prunable


def stop_between(model, calibration) -> float:
    """A threshold at which the loop stops in the middle, between two losses, where rounding decides nothing."""
    gradients = []
    for t in range(calibration.scheduler.config.num_train_timesteps):
        timesteps = torch.full((2,), t)
        x_t = calibration.scheduler.add_noise(calibration.images, calibration.noise, timesteps)
        with torch.no_grad():
            error = calibration.noise - model(x_t, timesteps).sample
        gradients.append(float(error.square().sum() / 2))
    running = np.maximum.accumulate(gradients)
    ratios = np.minimum.accumulate(np.array(gradients) / running)
    middle = [r for r in np.unique(ratios) if ratios[len(ratios) // 4] >= r >= ratios[-1]]
    return float(np.mean(middle[len(middle) // 2 - 1 : len(middle) // 2 + 1])) if len(middle) > 1 else 0.0


@pytest.mark.parametrize("name", [CASES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in CASES[1:])])
@pytest.mark.parametrize("stops", [False, True], ids=["to the end", "stops"])
def test_diff_pruning_equals_the_formula(name: str, stops: bool) -> None:
    asked, prunable = task(name)
    model, calibration = asked.model, asked.calibration
    threshold = stop_between(model, calibration) if stops else 0.0
    gradients, stop = summed_gradients(
        model, calibration.images, calibration.noise, calibration.scheduler.alphas_cumprod, threshold
    )
    assert (0 < stop < T) == stops, "the case does not test what it says"
    scored = criterion_called("diff-pruning").score(
        Task(model, prunable.layout, calibration, (threshold,), False, 0, silent)
    )[threshold]
    assert scored.facts["stop_timestep"] == stop
    weights = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    for group_name, group in prunable.layout.groups.items():
        for channel in {0, 1, group.size // 2, group.size - 1}:
            places = []
            for tensor, dim, segments in prunable.layout.dimensions():
                start = 0
                for segment in segments:
                    if segment.group == group_name and tensor.removesuffix(".weight") in weights:
                        places.append((tensor, dim, start + channel))
                    start += segment.size
            expected = channel_score(model, gradients, places)
            assert scored.scores[group_name][channel] == pytest.approx(expected, rel=1e-5), (group_name, channel)


@pytest.mark.parametrize("criterion", known_criteria())
def test_every_criterion_scores_every_channel(criterion: str) -> None:
    asked, prunable = task("heads", thresholds=(0.5, 0.0))
    scorings = criterion_called(criterion).score(asked)
    assert set(scorings) == {0.5, 0.0}
    for scored in scorings.values():
        assert {n: len(s) for n, s in scored.scores.items()} == {n: g.size for n, g in prunable.layout.groups.items()}
        assert all(np.isfinite(s).all() and (s >= 0).all() for s in scored.scores.values())
        assert any(len(set(s.tolist())) > 1 for s in scored.scores.values())


def test_norm_term_adds_the_norms_unsquared() -> None:
    plain, prunable = task("heads")
    with_term, _ = task("heads", norm_term=True)
    without = criterion_called("magnitude").score(plain)[0.05].scores
    added = criterion_called("magnitude").score(with_term)[0.05].scores
    weight = dict(plain.model.named_parameters())["conv_norm_out.weight"].abs().detach().numpy()
    (segment,) = prunable.layout.tensors["conv_norm_out.weight"][0]
    np.testing.assert_allclose(added[segment.group] - without[segment.group], weight, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["diff-pruning", "taylor"])
def test_norm_term_of_a_gradient_criterion_is_weight_times_gradient(criterion: str) -> None:
    with_term, prunable = task("heads", thresholds=(0.0,), norm_term=True)
    model, calibration = with_term.model, with_term.calibration
    gradients, _ = summed_gradients(
        model, calibration.images, calibration.noise, calibration.scheduler.alphas_cumprod, 0.0
    )
    added = criterion_called(criterion).score(with_term)[0.0].scores
    without = criterion_called(criterion).score(replace(with_term, norm_term=False))[0.0].scores
    expected = {name: scores.copy() for name, scores in without.items()}
    for norm in (f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.GroupNorm)):
        term, start = (model.get_parameter(norm) * gradients[norm]).abs().detach().numpy(), 0
        for segment in prunable.layout.tensors[norm][0]:
            expected[segment.group] += term[start : start + segment.size]
            start += segment.size
    assert any(not np.allclose(expected[name], without[name], rtol=1e-3) for name in expected)
    for name, scores in added.items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("stops", [False, True], ids=["to the end", "stops"])
def test_halves_are_scored_as_if_alone(stops: bool) -> None:
    """Where there are no more timesteps than a half visits, its scores are those of a scoring of it, up to the stop."""
    asked, _ = task("heads", thresholds=(0.0,))
    few = replace(asked.calibration, scheduler=DDPMScheduler(num_train_timesteps=HALVES_VISIT, beta_end=0.9))
    asked = replace(asked, calibration=few, thresholds=(stop_between(asked.model, few) if stops else 0.0,))
    (scored,) = criterion_called("diff-pruning").score(asked).values()
    end = scored.facts["stop_timestep"]
    assert (0 < end < HALVES_VISIT) == stops, "the case does not test what it says"
    assert len(scored.halves) == 2
    for half, found in zip(few.halves(), scored.halves, strict=True):
        (alone,) = [
            score_channels(asked.model, asked.layout, squared_taylor(reached.gradient))
            for reached in accumulate_to(asked.model, half, {0.0: end}, Effort())
        ]
        assert any(not np.allclose(alone[name], scored.scores[name], rtol=1e-2) for name in alone)
        for name, scores in found.items():
            np.testing.assert_allclose(scores, alone[name], rtol=1e-5, err_msg=name)


def test_unknown_criterion_lists_the_known() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown criterion 'fisher'[\s\S]*diff-pruning, magnitude, random, scratch, taylor"
    ):
        criterion_called("fisher")


def test_a_loss_that_is_not_finite_names_the_timestep() -> None:
    asked, _ = task("heads")
    asked.calibration.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(DtkError, match="calibration loss at timestep 0 is nan"):
        criterion_called("diff-pruning").score(asked)


def test_scores_that_are_not_finite_name_the_tensor() -> None:
    asked, prunable = task("heads")
    broken = "down_blocks.0.resnets.0.conv1.weight"
    with pytest.raises(DtkError, match=rf"scores of the tensor {broken} hold NaN"):
        score_channels(
            asked.model, prunable.layout, lambda name, weight: weight * (torch.nan if name == broken else 1.0)
        )


@pytest.mark.slow
def test_scores_survive_the_disk_and_know_what_they_are_of(tmp_path) -> None:
    asked, _ = task("heads", thresholds=(0.5, 0.0))
    scorings = criterion_called("diff-pruning").score(asked)
    path = tmp_path / "scores.safetensors"
    write_scores(path, scorings, "this")
    again = read_scores(path, "this")
    assert again is not None and set(again) == set(scorings)
    for threshold, scored in scorings.items():
        assert again[threshold].facts == scored.facts
        assert all(np.array_equal(again[threshold].scores[n], s) for n, s in scored.scores.items())
        assert len(again[threshold].halves) == len(scored.halves) == 2
        for one, other in zip(again[threshold].halves, scored.halves, strict=True):
            assert all(np.array_equal(one[n], s) for n, s in other.items())
    assert read_scores(path, "another") is None
    path.write_bytes(path.read_bytes()[:40])
    assert read_scores(path, "this") is None


@pytest.mark.parametrize("count", [8, 16, 24, 32])
@pytest.mark.parametrize(("block", "unit"), [(32, 1), (4, 1), (8, 1), (32, 8), (32, 4)])
def test_kept_channels_are_the_best_their_binding_allows(count: int, block: int, unit: int) -> None:
    from toolkit.pruning.layout import Group

    scores = np.random.Generator(np.random.Philox(1)).random(32)
    kept = selection.keep(Group("g", 32, block, unit), scores, count)
    assert len(kept) == count and (np.diff(kept) > 0).all()
    per_block = np.bincount(kept // block, minlength=32 // block)
    assert (per_block == count * block // 32).all()
    units = np.bincount(kept // unit, minlength=32 // unit)
    assert set(units) <= {0, unit}
    for start in range(0, 32, block):
        inside = [u for u in range(32 // unit) if start <= u * unit < start + block]
        sums = {u: scores[u * unit : (u + 1) * unit].sum() for u in inside}
        chosen = {u for u in inside if units[u]}
        assert (
            not chosen
            or not set(inside) - chosen
            or min(sums[u] for u in chosen) >= max(sums[u] for u in set(inside) - chosen)
        )


def test_less_than_one_head_is_refused() -> None:
    from toolkit.pruning.layout import Group

    with pytest.raises(
        DtkError, match=r"Cannot keep 4 of the 32 channels of g\.[\s\S]*a multiple of 8, and at least one"
    ):
        selection.keep(Group("g", 32, 32, unit=8), np.ones(32), 4)
