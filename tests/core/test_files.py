"""What the hash of a folder depends on, and that a file or folder is whole, the old or the new, whoever looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toolkit.core.errors import DtkError
from toolkit.core.files import files_below, folder_sha256, replacing, write_text
from toolkit.core.run_folder import Request, RunFolder


def test_a_folder_s_hash_is_of_what_was_put_there(tmp_path: Path) -> None:
    for name in ("module.py", "sub/data.bin", "__pycache__/module.cpython-311.pyc", "sub/.temporary"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert sorted(folder_sha256(tmp_path)) == ["module.py", "sub/data.bin"]
    before = folder_sha256(tmp_path)
    (tmp_path / "module.py").write_text("changed")
    assert folder_sha256(tmp_path) != before


def test_who_has_opened_a_file_reads_it_whole_while_another_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new and longer")
        assert reader.read() == "old" and path.read_text() == "new and longer"


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "stage", os.replace
    path.mkdir()
    (path / "old").touch()

    def failing(source: Path, target: Path) -> None:
        if (Path(source) / "new").exists():
            raise OSError("the device is gone")
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(DtkError, match="gone"), replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        patched.setattr(os, "replace", failing)
    assert [one.name for one in path.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [path]


def test_a_stage_is_current_for_its_settings_its_inputs_and_its_files(tmp_path: Path) -> None:
    run, request = RunFolder.create(tmp_path / "run"), Request("evaluate", {"images": 2}, {"dense": "a"})
    with run.writing(request) as folder:
        (folder / "metrics.json").write_text("{}")
    assert run.is_current(request)
    others = [Request("evaluate", {"images": 3}, {"dense": "a"}), Request("evaluate", {"images": 2}, {"dense": "b"})]
    assert not any(run.is_current(other) for other in others)
    (run.path / "evaluate" / "metrics.json").write_text("[]")
    assert not run.is_current(request), "it was changed behind the record"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(folder.name)
    (inside / "out").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    (inside / "sub" / "up").symlink_to("..")
    (inside / "self").symlink_to("self")
    (inside / "gone").symlink_to(tmp_path / "nowhere")
    names = {path.relative_to(inside).as_posix() for path in files_below(inside)}
    assert names == {"sub/weights", "out/weights", "self", "gone"}
    before = folder_sha256(inside)
    assert sorted(before) == ["out/weights", "sub/weights"]
    (outside / "weights").write_text("changed")
    assert folder_sha256(inside) != before
