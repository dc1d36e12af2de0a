"""A made-up report.json with every stage and every optional figure, for tests of how it is shown."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.report.headline import sentence
from toolkit.report.results import command


@cache
def _stored() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "example.json").read_text())


def example(*stages: str) -> dict[str, Any]:
    """The report of a run in which these stages have finished; none named means all."""
    value = copy.deepcopy(_stored())
    for stage in set(value["stages"]) - set(stages or value["stages"]):
        del value["stages"][stage], value["seconds"][stage]
        value["missing"][stage] = command(stage)
    return value | {"verdict": sentence(value["stages"])}
