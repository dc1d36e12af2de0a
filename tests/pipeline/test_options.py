"""What a command's options change of a run's settings, and what makes it another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporters.settings import EngineSettings
from toolkit.core.errors import UsageError
from toolkit.core.run_folder import RunFolder
from toolkit.pipeline import recipe, stages, sweep
from toolkit.pipeline.job import Job
from toolkit.pipeline.options import compress_recipe, prune_settings, with_options
from toolkit.pruning.latency_cost import stated_unit


def job(path: Path, **stages: Any) -> Job:
    return Job(RunFolder.create(path), recipe.make(stages, "The test's recipe"))


def test_an_option_left_out_changes_nothing(tmp_path: Path) -> None:
    before = {"trt": True, "engine": {"compute_capability": ["sm89"], "one_per_shape": True}}
    run = job(tmp_path, export=before)
    changed = with_options(run, "export", dict(trt=None, engine={"level": 5, "one_per_shape": None})).recipe.export
    assert changed.model_dump()["trt"] is True
    requested = {"compute_capability": ("sm89",), "level": 5, "one_per_shape": True}
    assert changed.model_dump()["engine"] == EngineSettings().model_dump() | requested
    off = with_options(run, "export", dict(trt=False, engine={"one_per_shape": False})).recipe.export
    assert not off.model_dump()["trt"] and not off.model_dump()["engine"]["one_per_shape"]


def test_options_of_a_stage_that_has_no_settings_yet(tmp_path: Path) -> None:
    run = job(tmp_path, profile=None)
    changed = with_options(run, "profile", dict(rounds={"seconds": None}, batches=["2"])).recipe.profile
    assert changed.model_dump()["batches"] == (2,)
    assert (
        with_options(run, "profile", dict(rounds={"seconds": 2.0})).recipe.profile.model_dump()["rounds"]["seconds"]
        == 2
    )


STAGES = [name for name in recipe.Recipe.model_fields if name not in ("model", "resume_from", "device", "rounds")]


@pytest.mark.parametrize("place", [*((stage,) for stage in STAGES), ("export", "engine"), ("profile", "rounds"), ()])
def test_an_unknown_setting_is_refused_with_those_there_are(place: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"colour": 1}
    known: dict[str, Any] = recipe.Recipe().model_dump() | {stage: {} for stage in STAGES}
    known = recipe.Recipe.model_validate(known).model_dump()
    for name in reversed(place):
        values = {name: values}
    for name in place:
        known = known[name]
    words = f"{'.'.join((*place, 'colour'))} is unknown; known are {', '.join(known)}"
    with pytest.raises(UsageError, match=f"The test cannot be followed[\\s\\S]*{words}$"):
        recipe.make(values, "The test")


def test_a_run_is_profiled_on_its_own_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "toolkit.pipeline.profile.profile", lambda run, settings, *models, **_: seen.append(settings.device)
    )
    monkeypatch.setattr(Job, "dense", None)
    monkeypatch.setattr(Job, "compressed", None)
    for device, own in (("cpu", "auto"), ("auto", "cpu"), ("auto", "auto")):
        stages.profile(job(tmp_path / f"{device}-{own}", device=device, profile={"device": own}))
    assert seen == ["cpu", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("recover.steps=9", True),
        ("recover.micro_batch_size=8", True),  # what an error of memory advises
        ("recover.compile=true", True),  # and one of compiled gradients takes back
        ("recover.channels_last=true", True),
        ("recover.learning_rate=1", False),
        ("prune.target=width=0.5", False),
    ],
)
def test_what_changes_memory_or_rounding_alone_is_the_same_run(change: str, same: bool) -> None:
    values: dict[str, Any] = {}
    recipe._apply(values, change)
    one, other = recipe.make({}, "one"), recipe.make(values, "other")
    assert (recipe.differences(one, other) == []) == same


@pytest.mark.parametrize(
    ("runner", "wanted"),
    [
        ("openvino:bf16", ("openvino", "bf16", 32)),
        ("onnxruntime", ("onnxruntime", "fp32", 16)),
        ("torch:fp16", ("torch", "fp16", 32)),
        ("tensorrt", ("tensorrt", "fp32", 64)),
    ],
)
@pytest.mark.parametrize("target", ["latency<=0.6", "macs<=0.6"])
def test_a_runner_names_its_precision_and_what_it_pads(runner: str, wanted: tuple[str, str, int], target: str) -> None:
    base = compress_recipe(None, None, {})
    settings = [
        prune_settings({"runner": runner, "target": target}),
        compress_recipe(None, None, {"runner": runner, "target": target}).prune,
        sweep.recipes(base, [target], {}, {"runner": runner, "batch": None}).popitem()[1].prune,
    ]
    for one in settings:
        assert (one.latency.runner, one.latency.dtype) == wanted[:2]
        assert stated_unit(one.latency.runner, one.latency.dtype) == wanted[2]


def test_an_unknown_runner_or_precision_is_refused() -> None:
    for runner, words in (("openvino:int4", "Unknown precision 'int4'"), ("torhc", "Unknown runner 'torhc'")):
        with pytest.raises(UsageError, match=words):
            prune_settings({"runner": runner, "target": "latency<=0.6"})


def test_a_sweep_tells_bounds_from_targets_in_its_folders() -> None:
    targets = ["latency=0.6", "latency<=0.6", "latency<=0.6,params<=0.7"]
    names = ["latency-0.6", "latency-at-most-0.6", "latency-at-most-0.6-params-at-most-0.7"]
    made = sweep.recipes(compress_recipe(None, None, {}), targets, {}, {})
    assert {name: one.prune.target for name, one in made.items()} == dict(zip(names, targets, strict=True))


@pytest.mark.parametrize(
    ("given", "meant", "earlier"),
    [
        ("2", 2, ["macs<=0.6"]),
        (3, 3, ["macs<=0.711379", "macs<=0.50606"]),
        ("macs<=0.7,macs<=0.5", ("macs<=0.7", "macs<=0.5"), ["macs<=0.7", "macs<=0.5"]),
        (["macs<=0.4"], ("macs<=0.4",), ["macs<=0.4"]),
    ],
)
def test_rounds_are_a_number_or_targets(given: object, meant: object, earlier: list[str]) -> None:
    made = compress_recipe(None, None, {"target": "macs=0.36", "rounds": given})
    assert made.rounds == meant and made.earlier_targets == earlier
    assert recipe.make(made.model_dump(mode="json"), "again") == made
