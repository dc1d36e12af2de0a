"""The verdict claims what was measured, and no more."""

from __future__ import annotations

import pytest

from tests.report.example import example
from toolkit.report.headline import fastest, launch_bound, sentence


def test_says_size_speed_and_quality() -> None:
    assert sentence(example()["stages"]) == (
        "58% of the parameters and 56% of the MACs are left; "
        "1.71x faster in onnxruntime at batch 64 (95%: 1.69 to 1.73x); "
        "FD (EfficientNet-Lite0@64) over 1,000 images 158.0 against the dense model's 138.6, worse."
    )


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("prune", "Nothing was pruned"),
        ("profile", "speed was not measured"),
        ("evaluate", "quality was not evaluated"),
    ],
)
def test_what_did_not_run_is_said(stage: str, said: str) -> None:
    stages = example()["stages"]
    assert said not in sentence(stages)
    del stages[stage]
    assert said in sentence(stages)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("slower", "slower, 1.71x the speed"),
        ("no difference", "no faster"),
        ("inconclusive", "too noisy to say whether it is faster"),
    ],
)
def test_faster_is_said_only_where_the_measurement_says_so(verdict: str, said: str) -> None:
    stages = example()["stages"]
    _, _, cell = fastest(stages["profile"])
    cell["speedup"]["verdict"] = verdict
    assert f"; {said} in onnxruntime at batch 64 (" in sentence(stages)
    assert "x faster" not in sentence(stages)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-5, -1, ", worse."), (1, 5, ", better."), (-1, 5, ", a difference within the noise.")],
)
def test_quality_is_judged_by_the_paired_interval(low: float, high: float, said: str) -> None:
    stages = example()["stages"]
    stages["evaluate"]["frechet_distance"]["intervals"]["dense_minus_compressed"] = {"low": low, "high": high}
    assert sentence(stages).endswith(said)


def test_quality_without_an_interval_is_not_judged() -> None:
    stages = example()["stages"]
    stages["evaluate"]["frechet_distance"]["intervals"] = None
    assert sentence(stages).endswith("158.0 against the dense model's 138.6.")


def test_the_fastest_is_the_one_with_most_images_a_second() -> None:
    profile = example()["stages"]["profile"]
    profile["runners"]["torch"]["latency"]["1"]["compressed"]["images_per_s"] = 1e6
    assert fastest(profile)[:2] == ("torch", "1")


def test_small_batches_are_called_bound_only_where_the_intervals_do_not_touch() -> None:
    runners = example()["stages"]["profile"]["runners"]
    assert launch_bound(runners) == ["onnxruntime"]  # torch at batch 1 was too noisy
    runners["onnxruntime"]["latency"]["1"]["speedup"]["high"] = 1.7
    assert launch_bound(runners) == []
