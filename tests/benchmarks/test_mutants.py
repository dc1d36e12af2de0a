"""The list of faults does not rot, and a fault is told by the first test that notices it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutants import QUICK, ROOT, Mutant, killed_by, mutants, require_passing


def test_every_fault_stands_in_its_file_once_and_names_its_tests() -> None:
    names = [mutant.name for mutant in mutants()]
    assert len(set(names)) == len(names) >= 40
    for mutant in mutants():
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.old) == 1 and mutant.old != mutant.new, mutant.name
        compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
        assert mutant.tests and all((ROOT / name).is_file() for name in (*mutant.tests, *mutant.slow)), mutant.name


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository of one function and one test, with a package of the name of one that is imported here."""
    files = {
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow"]\n',
        "toolkit/__init__.py": "",
        "toolkit/doubling.py": "def double(value):\n    return 2 * value  # exact\n",
        "tests/test_doubling.py": "from toolkit.doubling import double\n\ndef test_two():\n    assert double(2) == 4\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "test"),
    [("2 * value", "3 * value", "tests/test_doubling.py::test_two"), ("exact", "inexact", None)],
)
def test_a_fault_is_killed_by_the_test_that_fails_and_is_then_undone(
    old: str, new: str, test: str | None, copy: Path
) -> None:
    mutant = Mutant("fault", "toolkit/doubling.py", old, new, ("tests/test_doubling.py",))
    before = (copy / mutant.file).read_text()
    assert killed_by(copy, mutant) == test
    assert (copy / mutant.file).read_text() == before


@pytest.mark.slow
def test_tests_that_fail_by_themselves_prove_nothing(copy: Path) -> None:
    (copy / "toolkit/doubling.py").write_text("def double(value):\n    return value\n")
    with pytest.raises(SystemExit, match="test_two fails without a mutant"):
        require_passing(copy, ("tests/test_doubling.py",), QUICK)
