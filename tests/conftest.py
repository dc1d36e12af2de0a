"""Settings every test shares."""

import pytest
import torch

from exporters import settings

torch.set_num_threads(1)  # steadier, and the models of the tests are too small to gain from more


@pytest.fixture(autouse=True)
def one_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--opset auto`` has nothing to choose from: measuring would export every model three times."""
    monkeypatch.setattr(settings, "AUTO_OPSETS", (21,))
