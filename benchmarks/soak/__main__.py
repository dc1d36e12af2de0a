"""Does a run that is killed, starved of disk or asked for twice end as one that was left alone?

    python -m benchmarks.soak WORK [--kills 20] [--faults 4] [--requests 10000 --environment .venv-server]

The embedded default goes through every stage of benchmarks/recipes/soak.yaml, each a command of its own in a forked
process. A stage is done twice undisturbed: both must be the same, times left out. Then it is begun and killed (kill -9)
at seeded random moments until it has been killed ``--kills`` times, begun again and left alone. It is also begun
``--faults`` times each on a disk that fills up, on one that becomes read-only, and twice at once. Each time the run
must end with the files, weights and figures of the undisturbed one and nothing half written, and what it says must be
words. Disks are small tmpfs, which only root may mount; without, a largest file size stands for a full one and
read-only ones are left out. With ``--requests`` the run is then served and the server killed: see served.py. Results:
benchmarks/results/soak.json; exit code 1 if anything differed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.soak import served
from benchmarks.soak.stage import PRUNING, Place, Stage, start
from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.pipeline.stages import STAGES

BENCHMARKS = Path(__file__).parents[1]


def soak(work: Path, recipe: dict[str, Any], kills: int, faults: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every stage of ``recipe`` and what became of it; the last state is WORK/after-STAGE."""
    pruning = recipe | {name: None for name in STAGES if name != "prune"}
    (work / PRUNING).write_text(yaml.safe_dump(pruning))
    start(work, ["--version"], work / "said.txt").join()  # the server of the forks is up before times are taken
    before: Place | None = None
    for name in (name for name in recipe if name in STAGES):
        stage = Stage(work, name, before)
        ends: dict[str, Any] = stage.killed(kills) | {"faults_of_each_kind": faults, "full_disks": stage.full(faults)}
        ends |= {"read_only_disks": stage.read_only(faults), "second_commands_refused": stage.twice(faults)}
        yield name, ends | {"seconds": round(stage.seconds, 1), "problems": stage.problems}
        before = stage.after
        (before / "run" / "recipe.yaml").write_text(yaml.safe_dump(pruning | recipe))


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    options.work.mkdir(parents=True)
    recipe, problems, run = yaml.safe_load(options.recipe.read_text()), list[str](), options.served
    if run is None:
        for name, ends in soak(options.work, recipe, options.kills, options.faults):
            problems += _kept(options.output, name, ends)
            run = options.work / f"after-{name}" / "run"
    if options.requests:
        ends = served.soak(run, options.work, options.environment, options.requests)
        problems += _kept(options.output, "served", ends)
    return int(bool(problems))


def _kept(output: Path, name: str, ends: dict[str, Any]) -> list[str]:
    """Add a part to the results; its problems."""
    print(json.dumps({name: ends}), flush=True)
    parts = read_json(output)["parts"] if output.is_file() else {}
    write_json(output, {"machine": machine(), "versions": versions(), "parts": parts | {name: ends}})
    problems: list[str] = ends["problems"]
    return problems


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder that is not there yet")
    parser.add_argument("--recipe", type=Path, default=BENCHMARKS / "recipes" / "soak.yaml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faults", type=int, default=4)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument(
        "--served", type=Path, default=None, help="serve this run, which must be handed off, and no more"
    )
    parser.add_argument("--environment", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "soak.json")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
