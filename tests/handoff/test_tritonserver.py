from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

from toolkit.core.errors import DtkError, MissingToolError
from toolkit.handoff import tritonserver


def test_a_folder_that_is_no_environment_is_said(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="is not a virtual environment"):
        tritonserver.find(tmp_path, tmp_path)


def test_an_environment_without_a_server_is_said(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    with pytest.raises(MissingToolError, match="cannot serve(.|\n)*pytriton missing(.|\n)*nvidia-pytriton==0.7.0"):
        tritonserver.find(tmp_path / "empty", tmp_path)


def test_no_server_anywhere_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tritonserver, "_facts", lambda python: {"pytriton": None, "numpy": "2.4.6"})
    with pytest.raises(MissingToolError, match="There is no tritonserver"):
        tritonserver.find(None, tmp_path)


def test_a_server_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tritonserver"
    program.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tritonserver, "_facts", lambda python: {"pytriton": None, "numpy": "2.4.6"})
    assert tritonserver.find(None, tmp_path).program == program
