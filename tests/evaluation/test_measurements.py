"""Only equals are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.core.errors import DtkError
from toolkit.evaluation.measurements import Measurement, Setup, difference

FIGURE = Measurement("FD (X@64)", 5.0, Setup(1000, "X@64", "a" * 64, "b" * 64))


def under(**changes):
    return replace(FIGURE, conditions=replace(FIGURE.conditions, **changes))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (under(count=5000), "count 1000 against 5000"),
        (under(extractor="Y@299"), "extractor X@64 against Y@299"),
        (under(extractor_sha256="c" * 64), "extractor_sha256"),
        (under(reference_sha256="c" * 64), "reference_sha256"),
        (replace(FIGURE, metric="KD (X@64)"), r"metric FD \(X@64\) against KD \(X@64\)"),
    ],
)
def test_refuses_to_compare_what_was_measured_otherwise(other, words):
    with pytest.raises(DtkError, match=words) as error:
        difference(FIGURE, other)
    assert "cannot be compared" in str(error.value)


def test_difference_of_equals():
    assert difference(FIGURE, replace(FIGURE, value=3.0)) == replace(FIGURE, value=2.0)


def test_survives_json():
    record = FIGURE.to_json()
    assert record["value"] == 5.0
    assert record["count"] == 1000
    assert Measurement.from_json(record | {"note": "more"}) == FIGURE
