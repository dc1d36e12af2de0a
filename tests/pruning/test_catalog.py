"""Every known class has its adapter, and every adapter its class."""

from __future__ import annotations

from toolkit import denoiser_inputs, models
from toolkit.pruning import catalog


def test_adapters_are_the_known_classes() -> None:
    assert set(catalog.known_adapters()) == set(models.KNOWN_CLASSES) <= set(denoiser_inputs._CONDITIONING)
