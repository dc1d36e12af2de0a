"""The published schema describes report.json: the example's, a real run's, and not just anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.architecture.source import ROOT
from tests.report.example import example
from toolkit.report import results

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


def test_is_a_schema_of_the_version_that_is_written() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == results.SCHEMA_VERSION
    assert (
        SCHEMA["$defs"]["stage"]["enum"] == list(results.READERS) == list(SCHEMA["properties"]["stages"]["properties"])
    )


def test_the_example_fits() -> None:
    VALIDATOR.validate(example())


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a newer schema": lambda value: value.update(schema_version=3),
    "no verdict": lambda value: value.pop("verdict"),
    "no stage": lambda value: value.update(stages={}),
    "an unknown stage": lambda value: value["stages"].update(distil={}),
    "a fraction above one": lambda value: value["stages"]["prune"]["achieved"].update(macs_fraction=1.2),
    "a distance without its extractor": lambda value: value["stages"]["evaluate"]["frechet_distance"]["dense"].pop(
        "extractor"
    ),
    "a latency of zero": lambda value: _cell(value)["dense"].update(p50_ms=0),
    "a loop of no time": lambda value: value["stages"]["profile"]["runners"]["torch"]["loop"]["dense"].update(
        seconds_per_image=0
    ),
    "a part without its speed-up": lambda value: value["stages"]["profile"]["parts"]["parts"]["conv_in"].pop("speedup"),
    "a refused baseline without a reason": lambda value: value["stages"]["profile"]["baselines"]["fp32"]["1"][
        "rows"
    ].update(torch={}),
    "a headline without its place": lambda value: value["stages"]["profile"]["headline"].pop("now"),
    "a verdict of another word": lambda value: _cell(value)["speedup"].update(verdict="great"),
    "a verification that is undecided in its own words": lambda value: value["stages"]["verify"].update(
        verdict="maybe"
    ),
    "an artefact without its pairs": lambda value: value["stages"]["evaluate"]["artefacts"]["openvino:bf16"].pop(
        "pairs"
    ),
    "a parity that says nothing": lambda value: value["stages"]["export"]["parity"]["dense"].update(fp16={}),
}


def _cell(value: dict[str, Any]) -> dict[str, Any]:
    return value["stages"]["profile"]["runners"]["torch"]["latency"]["1"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_no_report_may_be_does_not_fit(damage: str) -> None:
    value = example()
    DAMAGE[damage](value)
    with pytest.raises(ValidationError):
        VALIDATOR.validate(value)
