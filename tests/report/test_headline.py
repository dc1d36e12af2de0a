"""The verdict claims what was measured, and no more."""

from __future__ import annotations

import pytest

from tests.report.example import example
from toolkit.report.headline import launch_bound, sentence


def test_says_what_there_was_and_is_now_then_quality_then_size() -> None:
    assert sentence(example()["stages"]) == (
        "44.5 images/s in 20 steps (onnxruntime, batch 64) where the dense model made 28.3 (compile:fp32, batch 64): "
        "1.57x faster (95%: 1.54 to 1.60x), pruning's share 1.66 to 1.73x; "
        "FD (EfficientNet-Lite0@64) over 1,000 images 158.0 against the dense model's 138.6, worse; "
        "58% of the parameters and 56% of the MACs, and 50% of the decoder's are left."
    )
    without = {name: figures for name, figures in example()["stages"].items() if name != "decoder"}
    assert sentence(without).endswith("58% of the parameters and 56% of the MACs are left.")


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("prune", "nothing was pruned"),
        ("profile", "speed was not measured"),
        ("evaluate", "quality was not evaluated"),
    ],
)
def test_what_did_not_run_is_said_after_what_was_found(stage: str, said: str) -> None:
    stages = example()["stages"]
    assert said not in sentence(stages)
    del stages[stage]
    assert sentence(stages).endswith(f"; {said}.")


def test_a_profile_without_a_headline_has_not_measured_speed() -> None:
    stages = example()["stages"]
    stages["profile"]["headline"] = None
    assert sentence(stages).endswith("; speed was not measured.")


@pytest.mark.parametrize(
    ("verdict", "low", "said"),
    [
        ("slower", 1.5, "slower, 1.57x the speed"),
        ("no difference", 1.5, "no faster"),
        ("inconclusive", 0.9, "too noisy to say how much faster it is, if at all"),
        ("inconclusive", 1.1, "faster, too noisy to say how much"),
    ],
)
def test_faster_is_said_only_where_the_measurement_says_so(verdict: str, low: float, said: str) -> None:
    stages = example()["stages"]
    stages["profile"]["headline"]["over_baseline"] |= {"verdict": verdict, "low": low}
    assert f"batch 64): {said} (95%" in sentence(stages)
    assert "x faster" not in sentence(stages)


def test_a_share_that_is_noise_and_a_speed_that_was_refused_are_no_figures() -> None:
    stages = example()["stages"]
    headline = stages["profile"]["headline"]
    headline["speedup"]["verdict"] = "inconclusive"
    assert "pruning's share inconclusive;" in sentence(stages)
    headline["refused"] = "the SM clock moved between 1200 and 1980 MHz"
    assert sentence(stages).startswith("Speed was refused: the SM clock moved")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-5, -1, ", worse."), (1, 5, ", better."), (-1, 5, ", a difference within the noise.")],
)
def test_quality_is_judged_by_the_paired_interval(low: float, high: float, said: str) -> None:
    stages = example()["stages"]
    stages["evaluate"]["frechet_distance"]["intervals"]["dense_minus_compressed"] = {"low": low, "high": high}
    assert sentence(stages).count(said[:-1] + ";")


def test_quality_without_an_interval_is_not_judged() -> None:
    stages = example()["stages"]
    stages["evaluate"]["frechet_distance"]["intervals"] = None
    assert sentence(stages).count("158.0 against the dense model's 138.6;")


def test_small_batches_are_called_bound_only_where_the_intervals_do_not_touch() -> None:
    runners = example()["stages"]["profile"]["runners"]
    assert launch_bound(runners) == ["onnxruntime"]  # torch at batch 1 was too noisy
    runners["onnxruntime"]["latency"]["1"]["speedup"]["high"] = 1.7
    assert launch_bound(runners) == []
