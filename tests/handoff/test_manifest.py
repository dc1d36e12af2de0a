from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from toolkit.core.files import write_json
from toolkit.handoff.dtk_server import manifest
from toolkit.handoff.dtk_server.refusal import UnfitError

PREFIX = "model_repository/sampler"


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "step.onnx").write_bytes(b"graph")
    np.save(tmp_path / "1" / "expected.npy", np.full((1, 2, 2), 100, np.uint8))
    return {
        "schema_version": 2,
        "repository": "model_repository",
        "model": "sampler",
        "requires": {"numpy": "1.24"},
        "files": {f"{PREFIX}/1/step.onnx": hashlib.sha256(b"graph").hexdigest(), "README.md": "not the server's"},
        "expected": {"seed": 0, "steps": 2, "file": f"{PREFIX}/1/expected.npy", "tolerance": 2},
    }


def test_what_fits_is_read(tmp_path: Path, stored: dict[str, Any]) -> None:
    write_json(tmp_path / "1" / "handoff.json", stored)
    assert manifest.read(tmp_path, "1") == stored


@pytest.mark.parametrize("name", ["../secret", "1/../../secret", "/etc/hostname"])
def test_a_path_that_leaves_the_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnfitError, match="lies outside"):
        manifest.inside(tmp_path, PurePosixPath(name))


def test_a_link_that_leaves_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UnfitError, match="lies outside"):
        manifest.inside(tmp_path / "model", PurePosixPath("link"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 1}, "schema version 1, this server reads 2"),
        ({"files": {f"{PREFIX}/1/step.onnx": "0" * 64}}, "damaged or was changed"),
        ({"files": {f"{PREFIX}/1/absent": "0" * 64}}, "is missing"),
        ({"files": {f"{PREFIX}/../../x": "0" * 64}}, "lies outside"),
        ({"requires": {"numpy": "77.0"}}, r"needs numpy 77\.0 or newer; installed is"),
        ({"requires": {"no-such-package": "1.0"}}, "installed is none"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, stored: dict[str, Any], change: dict[str, Any], words: str) -> None:
    write_json(tmp_path / "1" / "handoff.json", stored | change)
    with pytest.raises(UnfitError, match=words):
        manifest.read(tmp_path, "1")


def test_a_manifest_that_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "handoff.json").write_text("{")
    with pytest.raises(UnfitError, match="Cannot read"):
        manifest.read(tmp_path, "1")


@pytest.mark.parametrize(("value", "fits"), [(100, True), (102, True), (98, True), (103, False)])
def test_the_known_image_has_a_tolerance(tmp_path: Path, stored: dict[str, Any], value: int, fits: bool) -> None:
    image = np.full((1, 2, 2), value, np.uint8)
    if fits:
        manifest.check_image(image, tmp_path, stored)
    else:
        with pytest.raises(UnfitError, match="off by 3/255, allowed are 2/255"):
            manifest.check_image(image, tmp_path, stored)
