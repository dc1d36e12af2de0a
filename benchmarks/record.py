"""Keep a run's report as a result: ``python benchmarks/record.py RUN NAME`` writes benchmarks/results/NAME.json.

The report names its machine and versions; the calibration's loss curve and the parity of every timestep are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from toolkit.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def main(run: str, name: str) -> None:
    report = read_json(Path(run) / "report.json")
    report["stages"].get("prune", {}).get("scoring", {}).pop("losses", None)
    write_json(RESULTS / f"{name}.json", report)


if __name__ == "__main__":
    main(*sys.argv[1:])
