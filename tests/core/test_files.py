"""What the hash of a folder depends on."""

from __future__ import annotations

from pathlib import Path

from toolkit.core.files import files_below, folder_sha256


def test_a_folder_s_hash_is_of_what_was_put_there(tmp_path: Path) -> None:
    for name in ("module.py", "sub/data.bin", "__pycache__/module.cpython-311.pyc", "sub/.temporary"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert sorted(folder_sha256(tmp_path)) == ["module.py", "sub/data.bin"]
    before = folder_sha256(tmp_path)
    (tmp_path / "module.py").write_text("changed")
    assert folder_sha256(tmp_path) != before


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
