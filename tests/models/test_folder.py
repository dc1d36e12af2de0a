"""What goes along when a denoiser is written in the place of another."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import PLAIN, tiny_folder
from toolkit.core.files import folder_sha256
from toolkit.models.build import load_denoiser
from toolkit.models.save import save_model


def test_other_components_go_along_whatever_they_are_linked_to(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", **PLAIN)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "config.json").write_text("{}")
    (folder.root / "vae").symlink_to(tmp_path / "shared")
    (folder.root / "loop").symlink_to(folder.root)
    (folder.root / "gone").symlink_to(tmp_path / "nowhere")
    (folder.root / "old.bin").write_bytes(b"pickled")
    (folder.root / "README.md").write_text("the dense model's card")
    before = folder_sha256(folder.root)
    save_model(folder, load_denoiser(folder), tmp_path / "new")
    after = folder_sha256(tmp_path / "new", without=("unet",))
    assert after == {n: h for n, h in before.items() if n not in ("old.bin", "README.md") and not n.startswith("unet/")}
    assert "vae/config.json" in after and not list((tmp_path / "new").rglob("loop"))
