"""Keep a run's report as a result: ``python benchmarks/record.py RUN NAME`` writes benchmarks/results/NAME.json.

The report names its machine and versions; the calibration's loss curve and the parity of every timestep are left out,
and of paths only the last part stays. ``--without-times`` leaves out what a busy machine makes worthless: how long
the stages took, and latency. ``--note`` says in words what the figures are worth.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from toolkit.core.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
TIMES = ("latency", "loop", "open_s", "first_call_ms")


def named(value: Any) -> Any:
    """The value with absolute paths, which only one machine knows, cut to their last part."""
    if isinstance(value, dict):
        return {key: named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [named(one) for one in value]
    if not isinstance(value, str):
        return value
    return Path(value).name if value.startswith("/") else re.sub(r"(?<= )/\S*/", "", value)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """The report without durations; sizes, memory and counts stay."""
    kept = {key: value for key, value in report.items() if key not in ("seconds", "verdict")}
    profile = kept["stages"].get("profile", {})
    for key in ("baselines", "headline"):
        profile.pop(key, None)
    for found in profile.get("runners", {}).values():
        for key in TIMES:
            found.pop(key, None)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--without-times", action="store_true")
    parser.add_argument("--note")
    options = parser.parse_args()
    report = named(read_json(options.run / "report.json"))
    report["stages"].get("prune", {}).get("scoring", {}).pop("losses", None)
    if options.without_times:
        report = without_times(report)
    write_json(RESULTS / f"{options.name}.json", ({"note": options.note} if options.note else {}) | report)


if __name__ == "__main__":
    main()
