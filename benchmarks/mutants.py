"""Which one-line faults does no test notice? ``python -m benchmarks.mutants [NAME...]`` writes results/mutants.json.

Each fault of mutants.yaml is made alone in a copy of what git has staged, where one of the nearest tests must fail: of
the quick ones, then for a survivor of the slow ones named for it. The exit code is 1 if one survives.

mutmut and cosmic-ray take no such list: they make thousands of mutants of their own, most of wording or without effect,
where every run of a test costs seconds. Here each run is forked from this process, which has imported torch and
diffusers for all of them; of the repository's own packages a fork keeps nothing.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import multiprocessing
import os
import py_compile
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.core.environment import machine, versions
from toolkit.core.files import file_sha256, read_json, value_sha256, write_json

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
OWN = ("toolkit", "exporters", "profiles", "tests", "benchmarks")
PRELOADED = (
    *("diffusers.models.unets.unet_2d_condition", "diffusers.models.transformers.dit_transformer_2d", "accelerate"),
    *("diffusers.pipelines.ddpm", "hypothesis", "onnxruntime", "onnxscript", "scipy.stats", "torch._dynamo", "typer"),
    *("torch_pruning", "torchmetrics", "transformers"),
)
QUICK, SLOW = "not slow", "slow"
PATIENCE_S = 300  # a fault may make a loop endless
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutant:
    """``old``, which stands in ``file`` once, becomes ``new``; ``tests`` are the nearest, ``slow`` a survivor's."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    slow: tuple[str, ...] = ()


def mutants() -> Iterator[Mutant]:
    """All of mutants.yaml, in its order."""
    for group in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")):
        files = [tuple(f"tests/{name}.py" for name in group.get(key, "").split()) for key in ("tests", "slow")]
        for name, text in group["faults"].items():
            old, _, new = text.partition("\n")
            yield Mutant(name, group["file"], old, new, *files)


class FirstFailure:
    """A plugin of pytest: the first test that fails, or file that cannot be read."""

    nodeid: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.nodeid = self.nodeid or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def _work(copy: Path, tests: Sequence[str], marks: str, answer: Connection) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.chdir(copy)
    sys.dont_write_bytecode = True  # what was compiled before is checked by its source's hash
    (copy / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = str(copy / "tmp")
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(copy / "tmp")}
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    first = FirstFailure()
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", marks, *tests], plugins=[first])
    answer.send((int(code), first.nodeid))


def first_failure(copy: Path, tests: Sequence[str], marks: str) -> str | None:
    """The first of the ``tests`` in a copy of the repository that fails; None if all pass or none has the marks."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_work, args=(copy, tests, marks, sender))
    process.start()
    sender.close()
    try:
        code, nodeid = receiver.recv() if receiver.poll(PATIENCE_S) else (1, f"no answer in {PATIENCE_S} s")
    except EOFError:
        code, nodeid = 1, "a crash"
    process.kill()
    process.join()
    if nodeid is None and code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"pytest ended with {code} on {' '.join(tests)}")
    return nodeid


@cache
def require_passing(copy: Path, tests: tuple[str, ...], marks: str) -> None:
    """End the program if one of the tests fails without a mutant: it would prove nothing."""
    if failed := first_failure(copy, tests, marks):
        raise SystemExit(f"{failed} fails without a mutant")


def killed_by(copy: Path, mutant: Mutant) -> str | None:
    """The test that notices the mutant, None if none does; the quick ones are known to pass without it."""
    path = copy / mutant.file
    source = path.read_text(encoding="utf-8")
    for tests, marks in ((mutant.tests, QUICK), (mutant.slow, SLOW)):
        if not tests:
            continue
        if marks == SLOW:
            require_passing(copy, tests, marks)
        path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        nodeid = first_failure(copy, tests, marks)
        path.write_text(source, encoding="utf-8")
        if nodeid:
            return nodeid
    return None


def _key(copy: Path, mutant: Mutant) -> str:
    """What an answer depends on: the mutant, its file and its tests."""
    files = (mutant.file, *mutant.tests, *mutant.slow)
    return value_sha256([asdict(mutant), *(file_sha256(copy / name) for name in files)])[:16]


def main() -> None:
    known = {mutant.name: mutant for mutant in mutants()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults; none: all")
    parser.add_argument("--output", type=Path, default=RESULT, help="what it holds already is not tried again")
    options = parser.parse_args()
    if unknown := set(options.names) - known.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    rows = {row["name"]: row for row in (read_json(options.output)["mutants"] if options.output.is_file() else [])}
    for module in PRELOADED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="dtk-mutants-") as folder:
        copy = Path(folder)
        subprocess.run(["git", "checkout-index", "--all", f"--prefix={copy}/"], cwd=ROOT, check=True)
        compileall.compile_dir(copy, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        wanted = {name: _key(copy, known[name]) for name in options.names or known}
        tried = {name: key for name, key in wanted.items() if rows.get(name, {}).get("key") != key}
        if nearest := tuple(sorted({test for name in tried for test in known[name].tests})):
            require_passing(copy, nearest, QUICK)
        for name, key in tried.items():
            answer = killed_by(copy, known[name])
            rows[name] = {"name": name, "file": known[name].file, "killed_by": answer, "key": key}
            _write(options.output, [rows[one] for one in known if one in rows])
            print(f"{name}: {answer or 'SURVIVED'}", flush=True)
    survivors = [name for name in wanted if rows[name]["killed_by"] is None]
    print(f"{len(wanted)} faults, {len(survivors)} survived: {', '.join(survivors)}")
    sys.exit(bool(survivors))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    facts = {"question": "which one-line faults does no test notice?", "machine": machine(), "versions": versions()}
    killed = sum(row["killed_by"] is not None for row in rows)
    write_json(path, {**facts, "tried": len(rows), "killed": killed, "mutants": rows})


if __name__ == "__main__":
    main()
