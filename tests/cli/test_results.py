"""What every command leaves on stdout: JSON alone with ``--json``; and nobody need read it to its end."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

import toolkit.api.runs
from tests.cli.conftest import dtk
from toolkit.api.results import Report
from toolkit.cli import app
from toolkit.core.errors import DtkError
from toolkit.report.gates import GateFailedError

LINE: Any = get_command(app)
COMMANDS: dict[str, Any] = LINE.commands
ANSWER = {"answer": 42, "verdict": "It is done.", "missing": {}}
LIBRARY = "* project initialised"


def words(name: str, value: str, *, arguments: bool = False) -> list[str]:
    """The command with ``value`` for all that it cannot do without, and for every argument if requested."""
    params = COMMANDS[name].params
    needed = [p for p in params if p.required or "-o" in p.opts or (arguments and p.param_type_name == "argument")]
    return [name, *(word for p in needed for word in ([p.opts[0], value] if p.opts[0][0] == "-" else [value]))]


WITH_JSON = [name for name, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)]
# A target, and a file name as good as any; `list` takes no argument only to say which there are.
FORMS = [words(name, "width=0.5", arguments=name == "list") for name in WITH_JSON]
FORMS += [[*words("compress", "x"), "--dry-run"], ["profile", "x", "--against", "y"]]
FORMS += [["profile", "x", "y"], ["evaluate", "x", "y"]]
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=" ".join)


class Done(Report):
    """The result of whatever is done on it; it prints, as libraries do, and ends half way if ``end`` does."""

    _tables = staticmethod(lambda record: ["a line"] * 2000)
    ok, exit_code, kind, file, names, best, params_fraction, macs_fraction = True, 0, "LoRA", "f", "n", "b", 0.5, 0.5
    end: Callable[[str], None] = staticmethod(lambda name: None)

    def __getattr__(self, name: str) -> Any:
        def work(*_: object, **__: object) -> Done:
            sys.stdout.write(f"{LIBRARY}\n")
            logging.getLogger("toolkit").warning("a note")
            self.end(name)
            return self

        return work


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What stands in the place of the API's functions."""
    result, module = Done(ANSWER, Path("run")), ModuleType("work")
    module.__getattr__ = lambda name: getattr(result, name)  # type: ignore[method-assign]
    for name in (
        "runs",
        "several",
        "pruning",
        "importing",
        "catalog",
        "doctor",
    ):  # `from toolkit.api import runs`, and further in
        monkeypatch.setattr(toolkit.api, name, module, raising=False)
        monkeypatch.setitem(sys.modules, f"toolkit.api.{name}", module)
    return result


def test_every_command_but_the_server_takes_json() -> None:
    assert COMMANDS.keys() - set(WITH_JSON) == {"serve"}


@EVERY_FORM
def test_json_stands_alone_whatever_is_printed_meanwhile(form: list[str], done: Done) -> None:
    answer = dtk(*form, "--json")
    assert answer.code == 0, answer.err
    assert answer.json == ANSWER
    assert LIBRARY in answer.err and "note: a note" in answer.err


@pytest.mark.parametrize("last", [False, True], ids=["in the work", "in the report of it"])
@EVERY_FORM
def test_a_command_that_ends_half_way_says_so_on_stderr_alone(
    form: list[str], last: bool, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(name: str) -> None:
        if name == "report" if last else name not in ("open_run", "report"):
            raise DtkError("It cannot be.")

    monkeypatch.setattr(Done, "end", staticmethod(end))
    answer = dtk(*form, "--json")
    if answer.code:
        assert not answer.out and "Error: It cannot be." in answer.err
    else:
        assert answer.json == ANSWER and (last or form[0] == "report")


def test_figures_that_a_gate_fails_on_are_told(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = GateFailedError("Too slow.")
    failed.profile = done

    def end(name: str) -> None:
        if name == "profile":
            raise failed

    monkeypatch.setattr(Done, "end", staticmethod(end))
    answer = dtk("profile", "x", "--json")
    assert (answer.code, answer.json) == (failed.exit_code, ANSWER) and "Error: Too slow." in answer.err


@pytest.mark.parametrize("name", [name for name in WITH_JSON if name != "doctor"])
def test_what_is_not_there_is_told_on_stderr_alone(name: str, tmp_path: Path) -> None:
    answer = dtk(*words(name, str(tmp_path / "nowhere"), arguments=True), "--json")
    assert answer.code in (1, 2) and not answer.out
    assert answer.err.startswith("Error: ") and "nowhere" in answer.err


@pytest.mark.parametrize("form", [["--help"], *FORMS, *([*form, "--json"] for form in FORMS)], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(form: list[str], done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `dtk ... | head`; the interpreter flushes stdout at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    gone, errors = os.fdopen(writer, "w"), io.StringIO()
    with monkeypatch.context() as streams:
        streams.setattr(sys, "stdout", gone)
        streams.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as ended:
            LINE(form)
        sys.stdout.flush()
    assert ended.value.code == 1 and "rror" not in errors.getvalue()
    with suppress(BrokenPipeError):
        gone.close()
