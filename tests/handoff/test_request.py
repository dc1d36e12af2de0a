from __future__ import annotations

import numpy as np
import pytest

from toolkit.handoff.dtk_server.refusal import RefusedError
from toolkit.handoff.dtk_server.request import Limits, wishes

LIMITS = Limits(max_batch=4, max_steps=50, default_steps=20)
WITH_CLASSES = Limits(max_batch=4, max_steps=50, default_steps=20, classes=10)

GUIDED = Limits(max_batch=4, max_steps=50, default_steps=20, max_guidance=20.0)
TAUGHT = Limits(max_batch=4, max_steps=4, default_steps=4, steps=[2, 4])


def column(*values: float, dtype: type = np.int64) -> np.ndarray:
    return np.array(values, dtype)[:, None]


def test_a_row_is_an_image() -> None:
    arrays = {"SEED": column(2**64 - 1, 5, dtype=np.uint64), "STEPS": column(1, 50), "CLASS": column(9, 0)}
    first, second = wishes(arrays, WITH_CLASSES)
    assert (first.seed, first.steps, int(first.conditioning["class_labels"])) == (2**64 - 1, 1, 9)
    assert (second.seed, second.steps, int(second.conditioning["class_labels"])) == (5, 50, 0)


def test_steps_left_out_are_the_default() -> None:
    assert [wish.steps for wish in wishes({"SEED": column(1, 2)}, LIMITS)] == [20, 20]


@pytest.mark.parametrize(
    ("arrays", "limits", "words"),
    [
        ({}, LIMITS, "SEED is missing"),
        ({"SEED": column()}, LIMITS, "SEED is missing"),
        ({"SEED": column(1, 2, 3, 4, 5)}, LIMITS, "5 images in one request; the limit is 4"),
        ({"SEED": column(1), "STEPS": column(0)}, LIMITS, "STEPS is 0; expected 1 to 50"),
        ({"SEED": column(1), "STEPS": column(-3)}, LIMITS, "STEPS is -3; expected 1 to 50"),
        ({"SEED": column(1), "STEPS": column(51)}, LIMITS, "STEPS is 51; expected 1 to 50"),
        ({"SEED": column(1), "STEPS": column(5, 6)}, LIMITS, r"STEPS has shape \[2, 1\].*expected integers \[1, 1\]"),
        ({"SEED": column(1), "STEPS": np.array([[np.nan]])}, LIMITS, "STEPS has .* type float64; expected integers"),
        ({"SEED": np.ones((2, 2), np.uint64)}, LIMITS, r"SEED has shape \[2, 2\]"),
        ({"SEED": column(1), "STEPS": column(20)}, TAUGHT, "STEPS is 20; this model takes 2, 4"),
        (
            {"SEED": column(1), "GUIDANCE": column(np.nan, dtype=np.float32)},
            GUIDED,
            "GUIDANCE is nan; expected 0 to 20",
        ),
        (
            {"SEED": column(1), "GUIDANCE": column(np.inf, dtype=np.float32)},
            GUIDED,
            "GUIDANCE is inf; expected 0 to 20",
        ),
        ({"SEED": column(1), "GUIDANCE": column(1)}, GUIDED, "GUIDANCE has .* type int64; expected floats"),
        ({"SEED": column(1)}, WITH_CLASSES, "CLASS is missing: this model makes images of classes 0 to 9"),
        ({"SEED": column(1), "CLASS": column(10)}, WITH_CLASSES, "CLASS is 10; expected 0 to 9"),
    ],
)
def test_refusals_say_why(arrays: dict[str, np.ndarray], limits: Limits, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        wishes(arrays, limits)
