"""The stage: what it writes, what it refuses, and when it does not run again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from profiles.latency_table import Timing
from tests.evaluation.pictures import SETTINGS, pictures
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.data.open import open_images, split
from toolkit.diffusion.few_steps import few_step_scheduler
from toolkit.evaluation.distances import frechet_distance
from toolkit.evaluation.features import Extractor
from toolkit.evaluation.judging import floor_images
from toolkit.evaluation.measurements import Measurement
from toolkit.evaluation.metrics import excess_ratio
from toolkit.evaluation.samples import SamplingSettings, sample_images
from toolkit.evaluation.settings import EvaluateSettings
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler, save_scheduler
from toolkit.pipeline import evaluate as stage
from toolkit.pipeline.evaluate import evaluate
from toolkit.pruning.settings import LatencySettings


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tiny_folder(folder / "dense"), tiny_folder(folder / "compressed", seed=1, block_out_channels=(8, 16, 16))


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


QUARTERS = Extractor("quarters", "0" * 64, lambda: torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()))
"""Mean colours of the four quarters: a real network, small enough for a test."""


@pytest.fixture
def extractor():
    return QUARTERS


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """A run with an evaluation, and its metrics."""
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "run")
    return run, evaluate(run, SETTINGS, *models, pictures(30), extractor=QUARTERS)


def test_writes_metrics_and_a_picture(finished):
    run, metrics = finished
    assert json.loads((run.path / "evaluate" / "metrics.json").read_text()) == metrics
    picture = Image.open(run.path / "evaluate" / "pairs.png")
    assert picture.height == 3 * (64 + 4)
    assert -1 <= metrics["pairs"]["ssim"] < 1
    assert metrics["pairs"]["psnr_db"] > 0
    assert metrics["frechet_distance"]["floor_images"] == "another part of the reference"
    assert run.stage("evaluate")["settings"]["images"] == 12


def test_every_distance_names_its_conditions(finished):
    reference, distances = pictures(30), finished[1]["frechet_distance"]
    figures = [Measurement.from_json(distances[name]) for name in ("dense", "compressed", "floor")]
    assert len({figure.conditions for figure in figures}) == 1
    conditions = figures[0].conditions
    assert (conditions.count, conditions.extractor, conditions.extractor_sha256) == (12, "quarters", "0" * 64)
    assert conditions.reference_sha256 == reference.subset(range(12)).fingerprint
    assert {figure.metric for figure in figures} == {"FD (quarters)"}


def test_a_model_against_itself_is_perfect_in_pairs(run, models, extractor):
    metrics = evaluate(run, SETTINGS, models[0], models[0], pictures(30), extractor=extractor)
    assert metrics["pairs"]["ssim"] == pytest.approx(1)
    assert metrics["pairs"]["psnr_db"] is None
    distances = metrics["frechet_distance"]
    assert distances["dense"]["value"] == distances["compressed"]["value"]


@pytest.mark.slow
def test_is_not_run_again_unless_something_changed(run, models, extractor, monkeypatch):
    reference = pictures(30)
    first = evaluate(run, SETTINGS, *models, reference, extractor=extractor)
    judged = []
    original = stage.judge
    monkeypatch.setattr(stage, "judge", lambda *args: (judged.append(1), original(*args))[1])
    other_batches = SETTINGS.model_copy(update={"batch_size": 3})
    assert evaluate(run, other_batches, *models, reference, extractor=extractor) == first
    assert not judged
    evaluate(run, SETTINGS, *models, pictures(30, seed=1), extractor=extractor)
    evaluate(run, SETTINGS.model_copy(update={"seed": 1}), *models, reference, extractor=extractor)
    assert len(judged) == 2


def test_floor_comes_from_the_training_images_where_the_reference_is_small(run, models, extractor):
    small, train = pictures(20), pictures(50, seed=1)
    distances = evaluate(run, SETTINGS, *models, small, train=train, extractor=extractor)["frechet_distance"]
    assert distances["floor"]["count"] == 12
    assert "training images" in distances["floor_images"]


def test_the_floors_images_are_none_of_those_it_is_compared_with():
    reference, train = pictures(30), pictures(50, seed=1)
    assert floor_images(reference, train, 12)[0].numbers == reference.numbers[12:24]
    assert floor_images(reference, train, 16)[0].numbers == train.numbers[:16]
    assert floor_images(reference, None, 16)[0] is None


def test_no_floor_is_said(run, models, extractor):
    distances = evaluate(run, SETTINGS, *models, pictures(20), extractor=extractor)["frechet_distance"]
    assert "floor" not in distances
    assert distances["excess_ratio"] is None
    assert distances["floor_images"] == "no floor: it takes 24 reference images and there are 20"


def test_too_few_reference_images(run, models, extractor):
    with pytest.raises(DtkError, match="Too few images in pictures 0 for evaluation") as error:
        evaluate(run, SETTINGS, *models, pictures(11), extractor=extractor)
    assert "at least 12" in str(error.value)


def test_models_of_different_shapes_are_refused(run, models, extractor, tmp_path):
    grey = tiny_folder(tmp_path / "grey", in_channels=1, out_channels=1)
    with pytest.raises(DtkError, match="different shapes") as error:
        evaluate(run, SETTINGS, models[0], grey, pictures(30), extractor=extractor)
    assert "in_channels 3 and 1" in str(error.value)


def test_reference_of_other_channels_is_refused(run, models, extractor):
    with pytest.raises(DtkError, match="reference images do not have the model's number of channels"):
        evaluate(run, SETTINGS, *models, pictures(30, shape=(1, 8, 8)), extractor=extractor)


def test_a_failed_evaluation_leaves_no_folder(run, models, extractor, monkeypatch):
    monkeypatch.setattr(stage, "grid", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(run, SETTINGS, *models, pictures(30), extractor=extractor)
    assert not (run.path / "evaluate").exists()
    assert run.stage("evaluate") is None


def test_samples_are_compared_with_the_training_images(run, models, extractor):
    train = pictures(40, seed=1)
    found = evaluate(run, SETTINGS, *models, pictures(30), train=train, extractor=extractor)["nearest_training_images"]
    assert found["searched"] == 40
    assert len(found["numbers"]) == len(found["held_out_images_to_their_nearest"]) == 10
    assert (run.path / "evaluate" / "nearest.png").is_file()


@pytest.fixture
def half_as_long(monkeypatch, tmp_path):
    """A call of the compressed model takes half as long as one of the dense model; how it was timed is noted."""
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    taken = []

    def measured(dense, other, inputs, rounds):
        taken.append((type(other).__name__, len(inputs["sample"])))
        return Timing(10.0, 5.0, 0.5, 0.45, 0.55, 11)

    monkeypatch.setattr("profiles.latency_table.compare", measured)
    return taken


@pytest.mark.slow
def test_the_dense_model_has_the_same_measured_time_and_its_best_sampler(run, models, extractor, half_as_long):
    settings = SETTINGS.model_copy(update={"controls": True, "sampling_steps": 8})
    latency, images = LatencySettings(runner="torch", batch=3), pictures(30)
    metrics = evaluate(run, settings, *models, images, extractor=extractor, latency=latency)
    found = metrics["controls"]
    assert half_as_long == [("TorchRunner", 3)]
    assert (found["time"]["runner"], found["time"]["batch"], found["time"]["fraction"]) == ("torch", 3, 0.5)
    compressed, dense = found["curves"]["compressed"], found["curves"]["dense"]
    assert [(point["steps"], point["time_in_dense_steps"]) for point in compressed] == [(2, 1.0), (4, 2.0), (8, 4.0)]
    assert [(point["steps"], point["time_in_dense_steps"]) for point in dense] == [(1, 1), (2, 2), (4, 4), (8, 8)]
    real = extractor(images.read_uint8(range(12)))
    for name, model, (fewest, *others, every) in zip(("dense", "compressed"), models, (dense, compressed), strict=True):
        assert every["by_sampler"]["ddim"] == metrics["frechet_distance"][name]["value"]
        for point in (fewest, *others, every):
            assert list(point["by_sampler"]) == ["ddim", "dpm-solver", "unipc"]
            assert (
                point["frechet_distance"] == point["by_sampler"][point["sampler"]] == min(point["by_sampler"].values())
            )
        for sampler, distance in fewest["by_sampler"].items():
            made = sample_images(model, SamplingSettings(sampler, fewest["steps"], 0), 12, run.path / "others")
            assert distance == pytest.approx(frechet_distance(extractor(made), real))
    assert "in the time of 4.0 dense steps" in found["verdict"]
    assert "compressed, 8 steps" in (run.path / "evaluate" / "pareto.svg").read_text()
    assert evaluate(run, settings, *models, images, extractor=extractor, latency=latency) == metrics
    assert len(half_as_long) == 1, "a finished evaluation stays as it is"


def test_fewer_steps_of_a_model_that_was_taught_its_own_are_refused(run, models, extractor, tmp_path):
    taught = find_model(shutil.copytree(models[0].root, tmp_path / "taught"))
    save_scheduler(few_step_scheduler(load_scheduler(taught), 2, "epsilon"), taught.root)
    settings = SETTINGS.model_copy(update={"controls": True})
    with pytest.raises(UsageError, match=r"taught its steps[\s\S]*found: 2 steps[\s\S]*leave out --controls"):
        evaluate(run, settings, taught, models[1], pictures(30), extractor=extractor)
    assert not (run.path / "cache" / "samples").exists(), "refused before anything is sampled"


@pytest.mark.slow
def test_the_embedded_default_with_its_own_extractor(run):
    dense = find_model(None)
    train, reference = split(open_images(None, (1, 16, 16)), 0.5, 0)
    settings = EvaluateSettings(images=24, sampling_steps=4)
    metrics = evaluate(run, settings, dense, dense, reference, train=train)
    distances = metrics["frechet_distance"]
    assert distances["dense"]["metric"] == "FD (EfficientNet-Lite0@64)"
    assert distances["dense"]["value"] > distances["floor"]["value"] > 0  # four steps are far too few
    errors = metrics["prediction_errors"]["dense"]
    assert errors[0] > 0.1 > errors[-1]  # noise is hard to see if there is little of it
    assert metrics["reference"]["source"] == "fashion-mnist (embedded)"


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ({"dense": 5.0, "compressed": 9.0, "floor": 3.0}, 3.0),
        ({"dense": 3.0, "compressed": 9.0, "floor": 3.0}, None),
        ({"dense": 5.0, "compressed": 9.0}, None),
    ],
)
def test_excess_over_the_floor(distances, expected):
    assert excess_ratio(distances) == expected
