"""The server's packages are those that are installed here, under whichever name."""

from __future__ import annotations

import pytest

from toolkit.core.errors import MissingToolError
from toolkit.handoff import manifest


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_either_distribution_of_onnxruntime_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "installed_version", {name: "1.31.1"}.get)
    assert manifest.onnxruntime_version() == "1.31.1"


def test_without_any_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "installed_version", lambda name: None)
    with pytest.raises(MissingToolError, match=r"needs ONNX Runtime[\s\S]*\[gpu\]"):
        manifest.onnxruntime_version()
