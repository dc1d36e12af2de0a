"""What the hash of a folder depends on."""

from __future__ import annotations

from pathlib import Path

from toolkit.core.files import folder_sha256


def test_a_folder_s_hash_is_of_what_was_put_there(tmp_path: Path) -> None:
    for name in ("module.py", "sub/data.bin", "__pycache__/module.cpython-311.pyc", "sub/.temporary"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert sorted(folder_sha256(tmp_path)) == ["module.py", "sub/data.bin"]
    before = folder_sha256(tmp_path)
    (tmp_path / "module.py").write_text("changed")
    assert folder_sha256(tmp_path) != before
