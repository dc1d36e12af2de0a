"""Samples depend on the model, the sampler and the seed, and on nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.evaluation.pictures import SETTINGS, pictures
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError
from toolkit.evaluation import judging, samples
from toolkit.evaluation.artefact import SamplingSettings
from toolkit.evaluation.features import Extractor
from toolkit.evaluation.image_maker import ImageMaker, to_pixels
from toolkit.evaluation.judging import Resources, Subjects
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.evaluation.samples import sample_images, sample_share
from toolkit.models.conditioning import Conditioning

PLAN = SamplingSettings("ddim", 3, 0, batch_size=4)
NONE = SampleConditions(Conditioning("none"), 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(samples, "SHARD", 6)


def assert_same_pictures(first, second):
    """Convolutions may sum in another order at another batch size, so a value at a rounding border may move by one."""
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


def test_images_in_pixels(model, tmp_path):
    images = sample_images(model, PLAN, 10, tmp_path)
    assert images.dtype == np.uint8
    assert images.shape == (10, 8, 8, 3)
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_no_image(model, tmp_path, batch_size):
    whole = sample_images(model, PLAN, 10, tmp_path / "a")
    other = SamplingSettings("ddim", 3, 0, batch_size)
    assert other.key(model, NONE, "cpu") == PLAN.key(model, NONE, "cpu")
    assert_same_pictures(sample_images(model, other, 10, tmp_path / "b"), whole)


def test_image_i_is_made_from_seed_plus_i(model, tmp_path):
    shifted = sample_images(model, SamplingSettings("ddim", 3, 4, 4), 6, tmp_path / "a")
    assert_same_pictures(shifted, sample_images(model, PLAN, 10, tmp_path / "b")[4:])


def test_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    whole = sample_images(model, PLAN, 16, tmp_path / "a")
    drawn = []
    original = ImageMaker.__call__

    def fails_at_the_third_shard(self, numbers):
        drawn.append(list(numbers))
        if drawn.count([12, 13, 14, 15]) == 1 and 12 in numbers:
            raise KeyboardInterrupt
        return original(self, numbers)

    monkeypatch.setattr(ImageMaker, "__call__", fails_at_the_third_shard)
    with pytest.raises(KeyboardInterrupt):
        sample_images(model, PLAN, 16, tmp_path / "b")
    del drawn[:-1]
    np.testing.assert_array_equal(sample_images(model, PLAN, 16, tmp_path / "b"), whole)
    assert drawn[1:] == [[12, 13, 14, 15]]


def test_more_images_reuse_whole_shards_and_fewer_all(model, tmp_path, monkeypatch):
    ten = sample_images(model, PLAN, 10, tmp_path)
    np.testing.assert_array_equal(sample_images(model, PLAN, 16, tmp_path)[:10], ten)
    monkeypatch.setattr(samples, "ImageMaker", None)  # would be called if anything were missing
    np.testing.assert_array_equal(sample_images(model, PLAN, 8, tmp_path), ten[:8])


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_several_processes_are_the_whole(model, tmp_path, monkeypatch, processes):
    whole, made = sample_images(model, PLAN, 20, tmp_path / "a"), []
    original = ImageMaker.__call__

    def noting(self, numbers):
        made[-1].extend(numbers)
        return original(self, numbers)

    monkeypatch.setattr(ImageMaker, "__call__", noting)
    for index in range(processes):
        made.append([])
        sample_share(model, PLAN, 20, tmp_path / "b", (index, processes))
    assert sorted(itertools.chain(*made)) == list(range(20)) and min(map(len, made)) >= 2
    np.testing.assert_array_equal(sample_images(model, PLAN, 20, tmp_path / "b"), whole)
    assert len(list(itertools.chain(*made))) == 20, "nothing is left to make"


def test_damaged_shard_is_made_again(model, tmp_path):
    whole = sample_images(model, PLAN, 10, tmp_path)
    shard = sorted(tmp_path.rglob("*.npy"))[0]
    shard.write_bytes(shard.read_bytes()[:200])
    np.testing.assert_array_equal(sample_images(model, PLAN, 10, tmp_path), whole)


@pytest.mark.parametrize("change", [{"sampler": "ddpm"}, {"steps": 4}, {"seed": 1}, {"guidance": 2.0}])
def test_other_plans_have_other_keys(model, change):
    other = SamplingSettings(**({"sampler": "ddim", "steps": 3, "seed": 0} | change))
    assert other.key(model, NONE, "cpu") != PLAN.key(model, NONE, "cpu")


def test_progress_ends_at_the_total(model, tmp_path):
    told = []
    sample_images(model, PLAN, 10, tmp_path, progress=lambda *report: told.append(report))
    assert told[0] == ("sampling", 0, 10)
    assert told[-1] == ("sampling", 10, 10)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_classes_are_drawn_from_the_images_seed(tmp_path):
    model = tiny_folder(tmp_path / "model", num_class_embeds=5)
    found = Conditioning("class", 5)
    drawn = SampleConditions(found, 0)(range(50))
    assert SampleConditions(found, 10)(range(10)) == drawn[10:20]
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert sample_images(model, PLAN, 5, tmp_path).shape == (5, 8, 8, 3)


def test_pixels_are_rounded_as_a_saved_picture():
    values = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 7)
    expected = ((values / 2 + 0.5).clamp(0, 1).numpy() * 255).round().astype(np.uint8)  # diffusers' numpy_to_pil
    np.testing.assert_array_equal(to_pixels(values, None, [0]).ravel(), expected.ravel())


def test_images_that_are_not_finite_are_an_error(model):
    broken = torch.zeros(3, 1, 2, 2)
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(DtkError, match="not finite") as error:
        to_pixels(broken, model, [7, 8, 9])
    assert "1 of 3 images, the first from seed 8" in str(error.value)


def test_runs_of_one_dense_model_share_its_samples_and_all_features(model, tmp_path, monkeypatch):
    made, taken = [], []
    images = pictures(SETTINGS.images, seed=1).read_uint8(range(SETTINGS.images))
    monkeypatch.setattr(
        judging, "sample_images", lambda model, plan, count, cache, **rest: made.append(cache) or images
    )
    compute = Extractor.__call__
    monkeypatch.setattr(Extractor, "__call__", lambda self, *given: taken.append(given[-1]) or compute(self, *given))
    extractor = Extractor("quarters", "0" * 64, lambda: torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()))
    subjects = Subjects(model, model, pictures(30), None, extractor)
    places = [Resources(tmp_path / run, shared=tmp_path / "shared") for run in ("first", "second")]
    first, second = (judging.judge(subjects, SETTINGS, place).features for place in places)
    assert made == [tmp_path / "shared", tmp_path / "first", tmp_path / "shared", tmp_path / "second"]
    assert len(taken) == 3, "the reference, the floor, and the samples, which are the same for both models"
    assert all(np.array_equal(first[name], second[name]) for name in first)
