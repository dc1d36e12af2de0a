"""Conditions of ``--fail-if``: what can be read, what is decided, and what cannot be."""

from __future__ import annotations

import pytest

from tests.report.example import example
from toolkit.core.errors import DtkError, UsageError
from toolkit.report.gates import QUANTITIES, Gate, GateFailedError, hold, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnxruntime@64.speedup<1.2", Gate("", "speedup", "<", 1.2, "onnxruntime", 64)),
        (" tensorrt-rtx@1.latency_ms >= 4e-1 ", Gate("", "latency_ms", ">=", 0.4, "tensorrt-rtx", 1)),
        ("openvino:bf16@16.over_baseline<2", Gate("", "over_baseline", "<", 2.0, "openvino:bf16", 16)),
        ("torch.memory>512", Gate("", "memory", ">", 512, "torch")),
        ("parity>1e-4", Gate("", "parity", ">", 1e-4)),
        ("distance_ratio>.9", Gate("", "distance_ratio", ">", 0.9)),
    ],
)
def test_reads_a_figure_of_a_cell_a_runner_or_the_run(text: str, expected: Gate) -> None:
    found = parse(text)
    assert found.text == text
    assert vars(found) | {"text": ""} == vars(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"Cannot read the gate ''[\s\S]*expected: RUNNER@BATCH\.FIGURE<NUMBER"),
        ("speedup", "Cannot read"),
        ("onnxruntime@64.speedup=1.2", "Cannot read"),
        ("onnxruntime@64.speedup<fast", "Cannot read"),
        ("onnxruntime@0.speedup<1", "Cannot read"),
        ("onnxruntime@64.speedup<1.2 or so", "Cannot read"),
        ("onnxruntime@64.sped<1.2", r"Unknown figure 'sped'[\s\S]*speedup"),
        ("speedup<1.2", r"expected: RUNNER@BATCH\.speedup and a limit"),
        ("torch.speedup<1.2", r"expected: RUNNER@BATCH\.speedup and a limit"),
        ("torch@1.memory>3", r"expected: RUNNER\.memory and a limit"),
        ("torch@1.parity>3", "expected: parity and a limit"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(text)


VALUES = {  # of the example, worked out by hand
    "onnxruntime@64.speedup": 1.71,
    "onnxruntime@64.realised_share": 0.964,
    "onnxruntime@64.over_baseline": 1.567,
    "onnxruntime@64.latency_ms": 70.18,
    "onnxruntime@64.images_per_s": 912.0,
    "torch.memory": 401.14,
    "torch.memory_ratio": 1.0235,
    "parity": 5.4896e-07,
    "distance": 158.04,
    "distance_ratio": 1.1403,
    "ssim": 0.8793,
}


def test_every_figure_has_a_value_to_hold_it_to() -> None:
    assert {place.rpartition(".")[2] for place in VALUES} == set(QUANTITIES)


@pytest.mark.parametrize("place", VALUES)
@pytest.mark.parametrize(
    ("sign", "factor", "fails"),
    [("<", 1.01, True), ("<", 0.99, False), (">", 0.99, True), (">", 1.01, False), ("<=", 1.01, True)],
)
def test_fails_on_the_right_side_of_the_limit(place: str, sign: str, factor: float, fails: bool) -> None:
    failure = parse(f"{place}{sign}{VALUES[place] * factor!r}").failure(example()["stages"])
    assert (failure is not None) == fails


def test_the_limit_itself_is_within_or_without_by_the_sign() -> None:
    stages = example()["stages"]
    assert parse("onnxruntime@64.speedup<1.71").failure(stages) is None
    assert parse("onnxruntime@64.speedup<=1.71").failure(stages) is not None


@pytest.mark.parametrize("condition", ["torch@1.speedup<0.1", "torch@1.realised_share<0.1"])
def test_noise_is_no_proof_of_speed(condition: str) -> None:
    """In the example torch at batch 1 is inconclusive: a gate must not open because nothing is known."""
    assert "inconclusive, a speed-up of 0.95 to 1.13" in (parse(condition).failure(example()["stages"]) or "")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("compile@64.speedup<1", r"found: measured: torch, onnxruntime[\s\S]*expected: compile"),
        ("torch@8.speedup<1", r"found: measured: 1, 16, 64[\s\S]*expected: 8"),
    ],
)
def test_what_was_not_measured_is_an_error_not_a_pass(condition: str, said: str) -> None:
    with pytest.raises(DtkError, match=said):
        parse(condition).failure(example()["stages"])


def test_a_stage_that_did_not_run_is_an_error_that_names_it() -> None:
    with pytest.raises(DtkError, match=r"no evaluate stage[\s\S]*do: dtk evaluate RUN"):
        parse("distance>1").failure(example("profile")["stages"])


def test_all_failures_are_told_at_once_with_an_exit_code_of_their_own() -> None:
    conditions = [parse(text) for text in ("distance>100", "parity>1", "torch.memory>1")]
    with pytest.raises(GateFailedError, match=r"distance>100: 158 .*torch\.memory>1: 401\.1") as failed:
        hold(conditions, example()["stages"])
    assert failed.value.exit_code == 4
    assert "parity" not in str(failed.value)
    hold([parse("parity>1")], example()["stages"])
