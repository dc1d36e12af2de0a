"""What the wheel holds. The build itself is tried by .ci/run; here only what setuptools would take."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import find_packages

from tests.architecture.source import FILES, PACKAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_source_file_lies_in_a_package_of_the_wheel() -> None:
    found = set(find_packages(str(ROOT), include=SETUPTOOLS["packages"]["find"]["include"]))
    assert {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in FILES} <= found


def test_the_wheel_has_our_packages_and_no_other() -> None:
    found = find_packages(str(ROOT), include=SETUPTOOLS["packages"]["find"]["include"])
    assert {package.split(".")[0] for package in found} == set(PACKAGES)


def test_every_data_file_is_package_data() -> None:
    taken = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    there = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if _is_data(path)}
    assert there - taken == set()


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_name(line) for line in lines if line and not line.startswith("#")}
    extras = PROJECT["project"]["optional-dependencies"]
    tested = [*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["rtx"], *extras["serve"], *extras["dev"]]
    assert {_name(line) for line in tested} - {"dtk"} <= pinned


def test_the_constraints_bring_no_cuda() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert not re.search(r"^(nvidia-(?!ml-py)|triton==|cuda)", text, flags=re.MULTILINE)


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
