"""Folders whose files are the entries."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol

import pytest

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.registry import entries, entry


class Greeting(Protocol):
    name: str
    polite: bool

    def say(self) -> str: ...

    def __call__(self, other: str) -> str: ...


COMPLETE = """
class Hello:
    name, polite = "hello", True
    def say(self): return "hello"
    def __call__(self, other): return f"hello {other}"
GREETING = Hello()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "greetings"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hello.py").write_text(COMPLETE)
    (package / "helper.py").write_text("HELP = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "greetings"]:
        monkeypatch.delitem(sys.modules, name)
    return package


def known() -> dict[str, Greeting]:
    return entries(importlib.import_module("greetings"), "GREETING", Greeting)


def test_a_file_is_an_entry_and_a_file_without_one_is_none(folder: Path) -> None:
    assert [(name, one.say()) for name, one in known().items()] == [("hello", "hello")]
    assert entry(known(), "greeting", "hello").polite
    with pytest.raises(UsageError, match=r"Unknown greeting 'bye'[\s\S]*one of hello"):
        entry(known(), "greeting", "bye")


@pytest.mark.parametrize("part", [*Greeting.__annotations__, "say", "__call__"])
def test_an_entry_that_lacks_something_is_named_with_its_file(part: str, folder: Path) -> None:
    (folder / "hello.py").write_text(COMPLETE.replace(part, "other"))
    words = rf"GREETING of .*hello\.py is incomplete[\s\S]*no {part}\b[\s\S]*Greeting of "
    with pytest.raises(DtkError, match=words):
        known()
