"""Where to compute: what was requested is there, or the error says what is."""

from __future__ import annotations

import pytest
import torch

from toolkit.core.environment import resolve_device
from toolkit.core.errors import DtkError, UsageError


@pytest.mark.parametrize(
    ("gpus", "requested", "expected"), [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cuda:1", "cuda:1")]
)
def test_a_device_that_is_there_is_taken(
    gpus: int, requested: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(requested) == expected


@pytest.mark.parametrize(("gpus", "said"), [(0, "sees no CUDA device"), (2, r"sees 2 CUDA devices[\s\S]*cuda:2")])
def test_a_device_that_is_not_there_is_refused(gpus: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(DtkError, match=said):
        resolve_device("cuda:2")


@pytest.mark.parametrize("requested", ["gpu", "cuda:x"])
def test_what_is_no_device_is_refused(requested: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown device '{requested}'[\s\S]*cuda:1"):
        resolve_device(requested)
