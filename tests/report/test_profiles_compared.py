"""Runs side by side: only what may be compared is, and what keeps it from being plain is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.example import example
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.report.comparison import compare_runs


def run_at(path: Path, settings: dict[str, Any] | None = None, **machine: Any) -> RunFolder:
    """A run folder with the example's profile, on its machine but for what ``machine`` says."""
    run = RunFolder.create(path)
    profile = example()["stages"]["profile"]
    profile["machine"] |= machine
    with run.writing(Request("profile", settings or {"dtype": "fp32"}, {})) as folder:
        write_json(folder / "profile.json", profile)
    return run


def test_each_run_has_its_column(tmp_path: Path) -> None:
    one, other = run_at(tmp_path / "one"), run_at(tmp_path / "other")
    found = compare_runs([one, other])
    assert [run["name"] for run in found["runs"]] == [str(one.path), str(other.path)]
    assert [(row["runner"], row["batch"]) for row in found["rows"]] == [
        (runner, batch) for runner in ("torch", "onnxruntime") for batch in (1, 16, 64)
    ]
    last = found["rows"][-1]["runs"]
    assert last[0] == last[1]
    assert (last[0]["dense_ms"], last[0]["value"], last[0]["verdict"]) == (120.0, 1.71, "faster")
    (note,) = found["notes"]
    assert "not interleaved" in note


def test_a_cell_that_one_run_lacks_is_empty(tmp_path: Path) -> None:
    one, other = run_at(tmp_path / "one"), run_at(tmp_path / "other")
    path = other.path / "profile" / "profile.json"
    profile = example()["stages"]["profile"]
    del profile["runners"]["torch"], profile["runners"]["onnxruntime"]["latency"]["16"]
    write_json(path, profile)
    rows = {(row["runner"], row["batch"]): row["runs"][1] for row in compare_runs([one, other])["rows"]}
    assert [place for place, cell in rows.items() if cell] == [("onnxruntime", 1), ("onnxruntime", 64)]


@pytest.mark.parametrize("difference", [{"processor": "Other CPU"}, {"cores": 64}, {"gpu": "NVIDIA H200"}])
def test_different_machines_are_refused_unless_asked_for_and_then_labelled(
    tmp_path: Path, difference: dict[str, Any]
) -> None:
    runs = [run_at(tmp_path / "one"), run_at(tmp_path / "other", **difference)]
    with pytest.raises(DtkError, match=rf"different machines[\s\S]*{next(iter(difference.values()))}[\s\S]*--across-"):
        compare_runs(runs)
    found = compare_runs(runs, across_machines=True)
    assert any("different machines" in note for note in found["notes"])
    assert found["runs"][1]["machine"] | difference == found["runs"][1]["machine"]


def test_an_upgraded_kernel_is_no_other_machine(tmp_path: Path) -> None:
    compare_runs([run_at(tmp_path / "one"), run_at(tmp_path / "other", system="Linux-9")])


def test_settings_and_versions_that_differ_are_said(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "one"), run_at(tmp_path / "other", {"dtype": "fp16"})]
    record = runs[1].record()
    record["stages"]["profile"]["versions"]["torch"] = "1.0"
    write_json(runs[1].path / "run.json", record)
    notes = compare_runs(runs)["notes"]
    assert any(note.startswith("versions differ: torch ") and note.endswith("1.0") for note in notes)
    assert "settings differ: dtype fp32, fp16" in notes


def test_a_run_without_a_profile_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match=rf"no finished profile stage[\s\S]*do: dtk profile {tmp_path / 'other'}"):
        compare_runs([run_at(tmp_path / "one"), RunFolder.create(tmp_path / "other")])


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = run_at(tmp_path / "one")
    with pytest.raises(UsageError, match="named twice"):
        compare_runs([run, run])
